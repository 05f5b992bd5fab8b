"""What the integration tests share: clusters of real processes, a RESP client, load and checks."""
