"""Backups are taken while the cluster goes on, checked, and restored into clusters of any size; a
cluster that lost its majority is recovered from what is left; data directories are verified."""

import json
import os
import shutil
import sqlite3
import subprocess
import time

from harness.case import ClusterTest, quick, sanitizer
from harness.cluster import Options, run_server
from harness.load import Load
from harness.wait import wait_for


def flip(path, offset):
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 0x40]))


class Tools(ClusterTest):
    def cli(self, cluster, *arguments, timeout_s=120):
        build = os.path.dirname(os.path.dirname(Options.binary))
        servers = ",".join(f"127.0.0.1:{node.port}" for node in cluster.nodes)
        result = subprocess.run(
            [os.path.join(build, "client/cli/invoke-kv"), "--server", servers, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout_s * Options.slowdown(),
            check=False,
        )
        return result.returncode, result.stdout, result.stderr

    def succeeds(self, cluster, *arguments):
        code, out, err = self.cli(cluster, *arguments)
        self.assertEqual(code, 0, f"{arguments}: {out} {err}")
        return out

    def server(self, *arguments):
        return run_server(*arguments, timeout_s=60)

    def restore(self, cluster, backup):
        for node in cluster.nodes:
            status, out, err = self.server("restore", backup, "--config", node.config_path)
            self.assertEqual(status, 0, out + err)
            self.assertIn(f"restored node {node.id}", out)

    def fill(self, cluster, n=200):
        """Keys of six projects, one with a large value each."""
        for project in (f"project-{i}" for i in range(6)):
            with cluster[1].client(project) as client:
                client.pipeline([("SET", f"key-{i}", f"{project} {i}") for i in range(n)])
                client.call("SET", "large", b"x" * 300000)

    def check(self, node, n=200):
        for project in (f"project-{i}" for i in range(6)):
            with node.client(project) as client:
                values = client.pipeline([("GET", f"key-{i}") for i in range(n)])
                self.assertEqual(values, [f"{project} {i}".encode() for i in range(n)])
                self.assertEqual(client.call("STRLEN", "large"), 300000)
                self.assertEqual(client.call("DBSIZE"), n + 1)


class BackupTest(Tools):
    @quick
    @sanitizer
    def test_backup_under_load_wipe_restore(self):
        cluster = self.start_cluster(shards=4)
        self.fill(cluster)
        with cluster[1].client("expiring") as client:
            client.call("SET", "soon", "1", "PX", "4000")
            client.call("SET", "late", "1", "EX", "10000")
        backup = os.path.join(cluster.directory, "backup")
        projects = [f"load-{i}" for i in range(4)]
        with Load(list(cluster.nodes), projects, writers_per_project=1, pause_s=0.002) as load:
            load.wait_for_writes(50)
            acknowledged = {
                writer: {name: int(key.acknowledged) for name, key in list(writer.keys.items()) if key.acknowledged}
                for writer in load.writers
            }
            told = json.loads(self.succeeds(cluster, "--json", "backup", backup))
            load.wait_for_writes(20)
        self.assertEqual((told["backup"], told["shards"]), ("complete", 4))
        self.assertEqual(load.errors(), [])
        self.assertIn("good", self.succeeds(cluster, "backup", "--verify", backup))
        # Ordinary SQLite files.
        keys = 0
        with open(os.path.join(backup, "backup.json"), encoding="utf-8") as file:
            manifest = json.load(file)
        for shard in manifest["shards"]:
            copy = os.path.join(cluster.directory, "copy.db")
            shutil.copy(os.path.join(backup, shard["file"]), copy)
            with sqlite3.connect(copy) as database:
                self.assertEqual(database.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
                keys += database.execute("SELECT count(*) FROM kv").fetchone()[0]
            for suffix in ("", "-wal", "-shm"):
                if os.path.exists(copy + suffix):
                    os.remove(copy + suffix)
        self.assertGreaterEqual(keys, 6 * 201)
        # A second one goes elsewhere.
        code, _, err = self.cli(cluster, "backup", backup)
        self.assertEqual(code, 6)
        self.assertIn("holds a backup already", err)
        # Everything is lost.
        for node in cluster.nodes:
            node.kill()
            shutil.rmtree(node.data)
        time.sleep(max(0.0, 4.5 - 1))
        self.restore(cluster, backup)
        cluster.start()
        for node in cluster.nodes:
            self.check(node)
        with cluster[2].client("expiring") as client:
            self.assertIsNone(client.call("GET", "soon"))
            self.assertEqual(client.call("GET", "late"), b"1")
            self.assertLessEqual(client.call("TTL", "late"), 9997)
        for writer, values in acknowledged.items():
            with cluster[3].client(writer.project) as client:
                found = client.pipeline([("GET", name) for name in values])
            for (name, least), value in zip(values.items(), found):
                self.assertGreaterEqual(int(value or 0), least, f"{writer.project}/{name}")
        self.assertEqual(cluster[1].call("SET", "new", "1"), "OK")
        self.succeeds(cluster, "cluster", "status", "--wait-healthy")
        # A directory that is somebody's is not written over.
        cluster[1].stop()
        status, _, err = self.server("restore", backup, "--config", cluster[1].config_path)
        self.assertEqual(status, 1)
        self.assertIn("restored into an empty directory", err)

    @quick
    def test_restore_into_a_cluster_of_another_size_and_name(self):
        first = self.start_cluster(1, shards=2, name="first")
        self.fill(first)
        backup = os.path.join(first.directory, "backup")
        self.succeeds(first, "backup", backup)
        first[1].stop()
        second = self.make_cluster(3, shards=2, name="second")
        for node in second.nodes:
            where = ("restore", backup, "--node-config", node.config_path, "--program")
            status, _, err = self.cli(second, *where, "/nowhere/invoke-kvd")
            self.assertEqual(status, 6)
            self.assertIn("cannot run /nowhere/invoke-kvd: No such file or directory", err)
            self.assertIn(f"restored node {node.id}", self.succeeds(second, *where, Options.binary))
        status, _, err = self.cli(second, "restore", backup)
        self.assertEqual(status, 2)
        self.assertIn("--node-config FILE", err)
        second.start()
        for node in second.nodes:
            self.check(node)
        self.succeeds(second, "cluster", "status", "--wait-healthy")
        wrong = self.make_cluster(1, shards=3)
        status, _, err = self.server("restore", backup, "--config", wrong[1].config_path)
        self.assertEqual(status, 1)
        self.assertIn("2 shards, the configuration 3", err)

    @quick
    def test_damaged_backups_are_refused(self):
        cluster = self.start_cluster(1, shards=2)
        self.fill(cluster)
        good = os.path.join(cluster.directory, "backup")
        self.succeeds(cluster, "backup", good)
        target = self.make_cluster(1, shards=2)
        bad = os.path.join(cluster.directory, "bad")

        def flipped():
            flip(os.path.join(bad, "shard-1.db"), 9000)

        def missing():
            os.remove(os.path.join(bad, "shard-0.db"))

        def short():
            os.truncate(os.path.join(bad, "shard-0.db"), 8192)

        def edited():
            path = os.path.join(bad, "backup.json")
            with open(path, encoding="utf-8") as file:
                text = file.read()
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.replace('"index"', '"indox"', 1))

        def unfinished():
            os.remove(os.path.join(bad, "backup.json"))

        def newer():
            path = os.path.join(bad, "backup.json")
            with open(path, encoding="utf-8") as file:
                text = file.read()
            with open(path, "w", encoding="utf-8") as file:
                file.write(text.replace('"format": 1', '"format": 2', 1))

        for damage, words in [
            (flipped, "damaged"),
            (missing, "cannot open"),
            (short, "bytes, not"),
            (edited, "not described well"),
            (unfinished, "complete when it is there"),
            (newer, "format 2"),
        ]:
            with self.subTest(damage=damage.__name__):
                shutil.rmtree(bad, ignore_errors=True)
                shutil.copytree(good, bad)
                damage()
                status, _, err = self.server("restore", bad, "--config", target[1].config_path)
                self.assertEqual(status, 1)
                self.assertIn(words, err)
                code, _, err = self.cli(cluster, "backup", "--verify", bad)
                self.assertEqual(code, 6)
                self.assertIn(words, err)
                self.assertFalse(os.path.exists(target[1].data))

    def test_backup_goes_on_at_another_node(self):
        cluster = self.start_cluster(shards=4)
        self.fill(cluster)
        cluster[3].kill()
        self.succeeds(cluster, "backup", os.path.join(cluster.directory, "one-down"))
        # A copy that nobody fetches does not stay in the way.
        ticket = cluster[1].call("CLUSTER", "BACKUP", "BEGIN", "0")
        self.assertIsInstance(ticket, int)
        wait_for(lambda: os.path.exists(os.path.join(cluster[1].data, "shard-0.db.backup")), "the copy")
        self.assertEqual(cluster[1].call("CLUSTER", "BACKUP", "END", str(ticket)), "OK")
        wait_for(lambda: not os.path.exists(os.path.join(cluster[1].data, "shard-0.db.backup")), "the copy to go")


class RecoverTest(Tools):
    @quick
    @sanitizer
    def test_majority_lost_recover_and_grow_back(self):
        cluster = self.start_cluster(shards=2)
        self.fill(cluster)
        cluster.wait_caught_up()
        for node in cluster.nodes:
            node.kill()
        # Two of three are gone. One of them will turn up later.
        survivor, ghost, lost = cluster[1], cluster[2], cluster[3]
        shutil.rmtree(lost.data)
        status, _, err = self.server("recover", "--config", survivor.config_path)
        self.assertEqual(status, 64)
        self.assertIn("--i-accept-data-loss", err)
        status, out, err = self.server("recover", "--config", survivor.config_path, "--i-accept-data-loss")
        self.assertEqual(status, 0, out + err)
        survivor.start()
        wait_for(lambda: len(survivor.led_shards()) == 2, "the survivor to lead")
        self.check(survivor)
        self.assertEqual(survivor.call("SET", "alone", "1"), "OK")
        # What is left of the cluster before is refused.
        ghost.start()
        survivor.wait_for_log("belongs to another cluster of this name")
        ghost.kill()
        # With empty directories they are welcome.
        shutil.rmtree(ghost.data)
        for node in (ghost, lost):
            node.settings["join"] = "yes"
            node.write_config()
            node.start()
            self.succeeds(cluster, "cluster", "add", node.id)
        self.succeeds(cluster, "cluster", "status", "--wait-healthy")
        for node in cluster.nodes:
            self.check(node)
        survivor.kill()
        wait_for(lambda: lost.call("GET", "alone") == b"1", "the newcomers to go on")


class VerifyTest(Tools):
    @quick
    def test_sound_damaged_and_locked(self):
        cluster = self.start_cluster(3, shards=2)
        self.fill(cluster)
        node = cluster[2]
        status, _, err = self.server("verify", node.data)
        self.assertEqual(status, 1)
        self.assertIn("in use by the process", err)
        node.stop()
        status, out, err = self.server("verify", node.data)
        self.assertEqual(status, 0, out + err)
        self.assertIn("everything is sound", out)
        before = {name: os.path.getsize(os.path.join(node.data, "log", name)) for name in os.listdir(os.path.join(node.data, "log"))}
        copy = os.path.join(cluster.directory, "copy")

        def database():
            path = os.path.join(copy, "shard-1.db")
            with open(path, "rb") as file:
                at = file.read().find(b"project-")
            flip(path, at + 2 if at > 0 else 5000)

        def page():
            with open(os.path.join(copy, "shard-0.db"), "r+b") as file:
                file.seek(4096 * 3)
                file.write(b"\xff" * 4096)

        def log():
            names = sorted(name for name in os.listdir(os.path.join(copy, "log")) if name.endswith(".seg"))
            flip(os.path.join(copy, "log", names[-1]), 4096 + 60)

        def segment():
            names = sorted(name for name in os.listdir(os.path.join(copy, "log")) if name.endswith(".seg"))
            os.remove(os.path.join(copy, "log", names[-1]))

        def identity():
            flip(os.path.join(copy, "identity"), 20)

        def shard():
            os.remove(os.path.join(copy, "shard-0.db"))

        for damage in (database, page, log, segment, identity, shard):
            with self.subTest(damage=damage.__name__):
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(node.data, copy)
                damage()
                status, out, err = self.server("verify", copy)
                self.assertEqual(status, 2, out + err)
                self.assertIn("DAMAGED", out)
        status, _, err = self.server("verify", os.path.join(cluster.directory, "nothing"))
        self.assertEqual(status, 1)
        self.assertIn("no data directory", err)
        # It changed nothing that matters: the node starts.
        after = {name: os.path.getsize(os.path.join(node.data, "log", name)) for name in os.listdir(os.path.join(node.data, "log"))}
        self.assertEqual(after, before)
        node.start()
        cluster.wait_ready()
        self.check(node)
