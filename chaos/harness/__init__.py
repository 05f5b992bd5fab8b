"""What chaos/run is made of: hosts, disks, faults, watching, verdicts, report."""
