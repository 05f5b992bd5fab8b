"""MULTI, EXEC and WATCH on three nodes: all or nothing, for every observer, whoever dies."""

import random
import threading

from harness.case import ClusterTest, asan, quick, sanitizer
from harness.cluster import Options
from harness.resp import ConnectionLost, ReplyError
from harness.wait import wait_for

ACCOUNTS = 8
BALANCE = 1000


def run_all(threads):
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def transact(client, *commands):
    """The answer of EXEC; everything in one round trip."""
    return client.pipeline([("MULTI",), *commands, ("EXEC",)])[-1]


class Failures(list):
    """What threads found wrong: a thread's exception would go unnoticed."""

    def guard(self, function):
        def guarded(*arguments):
            try:
                function(*arguments)
            except Exception as error:  # noqa: BLE001 - the test asserts that there is none
                self.append(repr(error))

        return guarded


class TransactionTest(ClusterTest):
    @quick
    @asan
    def test_redis_cli_on_every_node(self):
        """What redis-cli shows, in RESP2 and RESP3; Redis shows the same."""
        cluster = self.start_cluster()
        text = (
            "FLUSHALL\nSET text abc\nMULTI\nSET a 1\nINCR a\nINCR text\nGET a\nGET none\nMGET a none\nEXEC\n"
            "MULTI\nSET a 5\nNOSUCH\nEXEC\nGET a\nMULTI\nSET a 6\nDISCARD\nEXEC\nGET a\n"
            "WATCH a\nSET a 7\nMULTI\nSET a 8\nEXEC\nGET a\nWATCH a\nMULTI\nINCR a\nGET a\nEXEC\n"
            "MULTI\nMULTI\nWATCH a\nEXEC\n"
        )
        shown = (
            "OK\nOK\nOK\nQUEUED\nQUEUED\nQUEUED\nQUEUED\nQUEUED\nQUEUED\n"
            '1) OK\n2) (integer) 2\n3) (error) ERR value is not an integer or out of range\n4) "2"\n5) (nil)\n'
            '6) 1) "2"\n   2) (nil)\n'
            "OK\nQUEUED\n(error) ERR unknown command 'NOSUCH', with args beginning with: \n"
            '(error) EXECABORT Transaction discarded because of previous errors.\n"2"\n'
            'OK\nQUEUED\nOK\n(error) ERR EXEC without MULTI\n"2"\n'
            'OK\nOK\nOK\nQUEUED\n(nil)\n"7"\nOK\nOK\nQUEUED\nQUEUED\n1) (integer) 8\n2) "8"\n'
            "OK\n(error) ERR MULTI calls can not be nested\n(error) ERR WATCH inside MULTI is not allowed\n"
        )
        for protocol in ("-2", "-3"):
            for node in cluster.nodes:
                with self.subTest(node=node.id, protocol=protocol):
                    answer = node.cli(stdin=text, options=(protocol, "--no-raw"))
                    # Errors stand between blank lines or not, by redis-cli's version.
                    lines = [line.rstrip() for line in answer.splitlines() if line.strip()]
                    expected = [line.rstrip() for line in shown.splitlines()] + ["(empty array)"]
                    self.assertEqual(lines, expected)

    @quick
    @sanitizer
    def test_everybody_sees_all_or_nothing(self):
        """Two keys change together; readers of all nodes, at all levels, never see them differ."""
        cluster = self.start_cluster(shards=1)
        cluster[1].call("MSET", "a", "0", "b", "0")
        stop = threading.Event()
        failures = Failures()
        seen = []

        @failures.guard
        def write(node):
            with node.client() as client:
                for number in range(150):
                    value = f"{node.id}-{number}"
                    answer = transact(client, ("SET", "a", value), ("GET", "b"), ("SET", "b", value))
                    if answer[0] != "OK" or answer[2] != "OK":
                        failures.append(answer)

        @failures.guard
        def read(node, level):
            with node.client() as client:
                client.call("CONSISTENCY", level)
                pairs = 0
                while not stop.is_set():
                    for pair in (transact(client, ("GET", "a"), ("GET", "b")), client.call("MGET", "a", "b")):
                        pairs += 1
                        if not isinstance(pair, list) or pair[0] != pair[1]:
                            failures.append((node.id, level, pair))
                seen.append(pairs)

        levels = ("LINEARIZABLE", "SESSION", "EVENTUAL")
        readers = [threading.Thread(target=read, args=(node, level)) for node in cluster.nodes for level in levels]
        for reader in readers:
            reader.start()
        run_all([threading.Thread(target=write, args=(node,)) for node in cluster.nodes])
        stop.set()
        for reader in readers:
            reader.join()
        self.assertEqual(failures, [])
        self.assertEqual(len(seen), len(readers))
        self.report(f"{sum(seen)} pairs read during 450 transactions")

    @quick
    @sanitizer
    def test_watch_counts_exactly(self):
        """Clients of all nodes count by WATCH, GET, SET: an increment is lost when EXEC lets a stale one pass."""
        cluster = self.start_cluster(shards=1)
        cluster[1].call("SET", "n", 0)
        rounds = 10 if Options.sanitizer() else 40
        conflicts = []

        failures = Failures()

        @failures.guard
        def count(node, piped):
            with node.client() as client:
                for _ in range(rounds):
                    while not self._count_once(client, piped):
                        conflicts.append(node.id)

        threads = [
            threading.Thread(target=count, args=(node, piped)) for node in cluster.nodes for piped in (False, True)
        ]
        run_all(threads)
        self.assertEqual(failures, [])
        self.report(f"{len(conflicts)} conflicts in {len(threads) * rounds} increments")
        for node in cluster.nodes:
            self.assertEqual(int(node.call("GET", "n")), len(threads) * rounds)
        self.assertGreater(len(conflicts), 0)

    def _count_once(self, client, piped):
        if piped:
            # GET must not be answered from before the moment when the versions are read.
            watched, value = client.pipeline([("WATCH", "n"), ("GET", "n")])
            self.assertEqual(watched, "OK")
        else:
            client.call("WATCH", "n")
            value = client.call("GET", "n")
        answer = transact(client, ("SET", "n", int(value) + 1), ("GET", "n"))
        if answer is None:
            return False
        self.assertEqual(answer, ["OK", str(int(value) + 1).encode()])
        return True

    @sanitizer
    def test_a_bank_keeps_its_total_while_leaders_die(self):
        """Transfers between accounts through all nodes, with kill -9 of the leader: at no moment, and
        through no node, do the balances add up to anything else."""
        cluster = self.start_cluster(shards=1, rebalance="no")
        for account in range(ACCOUNTS):
            cluster[1].call("SET", f"account-{account}", BALANCE)
        stop = threading.Event()
        failures = Failures()
        done, unknown, looks = [], [], []

        @failures.guard
        def look(node):
            while not stop.is_set():
                try:
                    with node.client() as client:
                        while not stop.is_set():
                            balances = transact(client, *[("GET", f"account-{a}") for a in range(ACCOUNTS)])
                            if isinstance(balances, ReplyError):
                                continue  # no leader at the moment
                            looks.append(node.id)
                            if sum(map(int, balances)) != ACCOUNTS * BALANCE:
                                failures.append((node.id, balances))
                except ConnectionLost:
                    stop.wait(0.05)

        @failures.guard
        def transfer(node, seed):
            chance = random.Random(seed)
            while not stop.is_set():
                try:
                    with node.client() as client:
                        while not stop.is_set():
                            self._transfer_once(client, chance, done, unknown, failures)
                except ConnectionLost:
                    unknown.append("connection lost")
                    stop.wait(0.05)

        threads = [threading.Thread(target=look, args=(node,)) for node in cluster.nodes]
        threads += [threading.Thread(target=transfer, args=(node, seed)) for node in cluster.nodes for seed in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(1 if Options.sanitizer() else 4):
                self._wait_for_more(done, 50)
                victim = cluster.leader_of()
                victim.kill()
                self._wait_for_more(done, 20)
                victim.start()
                cluster.wait_ready()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual(failures, [])
        cluster.wait_caught_up()
        self.report(f"{len(done)} transfers, {len(unknown)} of unknown fate, {len(looks)} totals read")
        for node in cluster.nodes:
            balances = node.call("MGET", *[f"account-{a}" for a in range(ACCOUNTS)])
            self.assertEqual(sum(map(int, balances)), ACCOUNTS * BALANCE)
            # The counter of transfers moves with them: none is lost, none is done twice.
            transfers = int(node.call("GET", "transfers"))
            self.assertGreaterEqual(transfers, len(done))
            self.assertLessEqual(transfers, len(done) + len(unknown))

    def _transfer_once(self, client, chance, done, unknown, failures):
        """Without WATCH, or with one on both accounts."""
        source, target = chance.sample(range(ACCOUNTS), 2)
        amount = chance.randint(1, 50)
        source, target = f"account-{source}", f"account-{target}"
        if chance.random() < 0.5:
            commands = [("DECRBY", source, amount), ("INCRBY", target, amount), ("INCR", "transfers")]
        else:
            watched, values = client.pipeline([("WATCH", source, target), ("MGET", source, target)])
            if isinstance(watched, ReplyError) or isinstance(values, ReplyError):
                client.pipeline([("UNWATCH",)])
                return
            balances = list(map(int, values))
            commands = [
                ("SET", source, balances[0] - amount),
                ("SET", target, balances[1] + amount),
                ("INCR", "transfers"),
            ]
        try:
            answer = transact(client, *commands)
        except ConnectionLost:
            unknown.append("connection lost")
            raise
        if isinstance(answer, ReplyError):
            if answer.code == "UNCERTAIN":
                unknown.append(answer.text)
            elif answer.code not in ("NOLEADER", "BUSY"):
                failures.append(answer.text)
        elif answer is not None:
            done.append(answer)

    def _wait_for_more(self, done, count):
        goal = len(done) + count
        wait_for(lambda: len(done) >= goal, f"{count} more transfers", 60 * Options.slowdown())

    @sanitizer
    def test_numbered_transactions_happen_once(self):
        """ONCE before EXEC, sent again through other nodes until it is answered, while nodes die: the
        counters of the transactions are exact."""
        cluster = self.start_cluster(shards=1, rebalance="no")
        stop = threading.Event()
        failures = Failures()
        done, repeated = [], []

        def attempt(node, session, number):
            try:
                with node.client(timeout_s=10) as client:
                    commands = [("INCR", "a"), ("PING",), ("INCR", "b")]
                    return client.pipeline([("MULTI",), *commands, ("ONCE", session, number, "EXEC")])[-1]
            except ConnectionLost as error:
                return error

        @failures.guard
        def count(name):
            session = None
            while session is None:
                session = cluster[1 + name % 3].call("ONCE", "OPEN")
            number = 0
            while not stop.is_set():
                number += 1
                for attempts in range(1000):
                    answer = attempt(cluster[1 + (name + attempts) % 3], session, number)
                    if isinstance(answer, list):
                        break
                    repeated.append(str(answer))
                    stop.wait(0.05)
                if answer[0] != answer[2] or answer[1] != "PONG":
                    failures.append(answer)
                done.append(answer[0])

        threads = [threading.Thread(target=count, args=(name,)) for name in range(6)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(1 if Options.sanitizer() else 3):
                self._wait_for_more(done, 50)
                victim = cluster.leader_of()
                victim.kill()
                self._wait_for_more(done, 20)
                victim.start()
                cluster.wait_ready()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        self.assertEqual(failures, [])
        self.report(f"{len(done)} numbered transactions, {len(repeated)} attempts without an answer")
        self.assertEqual(sorted(done), list(range(1, len(done) + 1)))
        self.assertEqual(cluster[2].call("MGET", "a", "b"), [str(len(done)).encode()] * 2)

    @quick
    def test_large_transactions_through_a_follower(self):
        cluster = self.start_cluster(shards=1)
        follower = cluster.others(cluster.leader_of())[0]
        with follower.client(timeout_s=60) as client:
            commands = [("SET", f"key-{number}", number) for number in range(20000)]
            answer = transact(client, *commands)
            self.assertEqual(len(answer), 20000)
            self.assertEqual(set(answer), {"OK"})
            values = [bytes([letter]) * (2 << 20) for letter in b"abcdefg"]
            answer = transact(client, *[("SET", f"large-{n}", value) for n, value in enumerate(values)], ("DBSIZE",))
            self.assertEqual(answer, ["OK"] * 7 + [20007])
            answer = transact(client, *[("GET", f"large-{n}") for n in range(7)])
            self.assertTrue(answer == values, "the values come back as they were set")
            client.call("MULTI")
            for value in values:
                client.call("SET", "x", value)
            with self.assertRaisesRegex(ReplyError, "^TOOBIG transaction of .* exceeds the limit of 17301504 bytes"):
                for value in values:
                    client.call("SET", "x", value)
            with self.assertRaisesRegex(ReplyError, "^EXECABORT"):
                client.call("EXEC")
            self.assertIsNone(client.call("GET", "x"))

    @quick
    def test_transactions_and_expiry(self):
        """A watched key that expires is a changed key; times within a transaction are those of its entry."""
        cluster = self.start_cluster()
        for node in cluster.nodes:
            with node.client() as client:
                client.call("SET", "lease", "mine", "PX", 150)
                client.call("WATCH", "lease")
                wait_for(lambda node=node: node.call("EXISTS", "lease") == 0, "the lease to expire")
                self.assertIsNone(transact(client, ("SET", "taken", "yes")))
                self.assertEqual(client.call("EXISTS", "taken"), 0)
                answer = transact(client, ("SET", "t", "v", "PX", 60000), ("PTTL", "t"), ("DEL", "t"))
                self.assertEqual(answer, ["OK", 60000, 1])
