"""Conversations with redis-cli: what a user types, and what is shown."""

import re

LATE_S = 20  # for machines that are busy between two commands


class SecondsLeft:
    """An answer of TTL, asked soon after the time was set."""

    def __init__(self, seconds):
        self.seconds = seconds

    def __eq__(self, shown):
        match = re.fullmatch(r"\(integer\) (\d+)", shown)
        return match is not None and self.seconds - LATE_S <= int(match[1]) <= self.seconds

    def __repr__(self):
        return f"<{self.seconds} s left, or a little less>"


def check_redis_cli(test, cluster, conversation):
    """Each line of [(words, what is shown)], in RESP2 and RESP3 and through every node. Each command
    comes over a connection of its own."""
    for protocol in ("-2", "-3"):
        for node in cluster.nodes:
            with test.subTest(node=node.id, protocol=protocol):
                for command, expected in conversation:
                    words = command.split() if isinstance(command, str) else command
                    answer = node.cli(*words, options=(protocol, "--no-raw"))
                    test.assertEqual(answer, expected, f"{command} on {node}")
