"""The schedule of a run follows from its seed alone: rounds of faults with pauses between them."""

import random

from harness.faults import KINDS

WARM_UP_S = 3.0
PAUSE_S = (1.0, 4.0)  # between rounds
EXCLUSIVE_S = 12.0  # what a round that needs the cluster for itself is reckoned to take
ROUNDS_OF_MIX = (1, 1, 2, 2, 3)  # how many faults overlap, drawn from these
EXCLUSIVE_SHARE = 0.12  # of the rounds of a mix
MISFITS = 20  # rounds that are too long for what is left of the run, until that is the end


def draw_seconds(rng, kind):
    """Long ones are rarer: half of all are in the lowest quarter of the range."""
    shortest, longest = KINDS[kind].seconds
    return round(shortest + (longest - shortest) * rng.random() ** 2, 2)


def _fault(rng, kind, begin):
    return {
        "fault": kind,
        "at": round(begin, 2),
        "seconds": draw_seconds(rng, kind),
        "pick": rng.randrange(1 << 30),
    }


def _overlapping(rng, kinds):
    n = 1 if len(kinds) == 1 else min(rng.choice(ROUNDS_OF_MIX), len(kinds))
    faults = [
        _fault(rng, kind, rng.uniform(0, 2) if n > 1 else 0.0) for kind in rng.sample(kinds, n)
    ]
    return sorted(faults, key=lambda fault: fault["at"])


def length_of(round_of_faults):
    return max(
        EXCLUSIVE_S if KINDS[fault["fault"]].exclusive else fault["at"] + fault["seconds"]
        for fault in round_of_faults
    )


def draw(seed, kinds, seconds=None, rounds=None):
    """[{"at": s, "faults": [...]}]: either for so many seconds or so many rounds. The times of faults
    count from their round, those of rounds from the start of the run, if nothing takes longer than
    reckoned."""
    rng = random.Random(seed)
    exclusive = sorted(kind for kind in kinds if KINDS[kind].exclusive)
    others = sorted(kind for kind in kinds if not KINDS[kind].exclusive)
    plan, moment, misfits = [], WARM_UP_S, 0
    while kinds and misfits < MISFITS:
        alone = not others or (exclusive and rng.random() < EXCLUSIVE_SHARE)
        faults = [_fault(rng, rng.choice(exclusive), 0.0)] if alone else _overlapping(rng, others)
        length = length_of(faults)
        if rounds is not None and len(plan) == rounds:
            break
        if rounds is None and moment + length > seconds:
            misfits += 1
            continue
        plan.append({"at": round(moment, 2), "faults": faults})
        moment += length + rng.uniform(*PAUSE_S)
    return plan


def describe(plan):
    lines = []
    for number, entry in enumerate(plan, 1):
        faults = ", ".join(
            fault["fault"]
            if KINDS[fault["fault"]].exclusive
            else f"{fault['fault']} +{fault['at']:g}s for {fault['seconds']:g}s"
            for fault in entry["faults"]
        )
        lines.append(f"  {number:3d}  {entry['at']:7.1f} s  {faults}")
    return lines
