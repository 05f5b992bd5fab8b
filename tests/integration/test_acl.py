"""docs/acl.md against a real node: every command in every role."""

import os
import re
import secrets

from harness.case import ClusterTest, asan, quick
from harness.cluster import ROOT
from harness.resp import Client, ReplyError

ROLES = ("open", "none", "reader", "writer", "service", "admin")
PROJECT = "matrix"

# How each command is given so that it would succeed: `n` holds 5, `s` holds "text", `spare` is another
# project. A tuple whose first element is an exception's code: the command's own answer is an error.
EXAMPLES = {
    "append": ("s", "x"), "asking": (), "auth": ("@user", "@secret"),
    "client getname": (), "client help": (), "client id": (), "client info": (), "client list": (),
    "client no-evict": ("ON",), "client setinfo": ("LIB-NAME", "x"), "client setname": ("x",),
    "cluster help": (), "cluster info": (), "cluster keyslot": ("k",), "cluster myid": (),
    "cluster nodes": (), "cluster redirect": ("OFF",), "cluster replace": ("99",), "cluster add": ("99",), "cluster backup": ("STATE", "1"), "cluster members": (),
    "cluster rebalance": (), "cluster remove": ("99",), "cluster transfer": ("63",), "cluster shards": (),
    "cluster slots": (), "cluster topology": (),
    "command": (), "command count": (), "command docs": ("get",), "command help": (),
    "command info": ("get",), "command list": (),
    "config get": ("*",), "config help": (), "config resetstat": (), "config set": ("save", ""),
    "consistency": (), "copy": ("s", "t", "REPLACE"), "dbsize": (), "decr": ("n",), "decrby": ("n", "2"),
    "del": ("s",), "delex": ("s",), "discard": (), "echo": ("x",), "exec": (), "exists": ("s",),
    "expire": ("s", "100"), "expireat": ("s", "9999999999"), "expiretime": ("s",), "flushall": (),
    "flushdb": (), "get": ("s",), "getdel": ("s",), "getex": ("s", "PERSIST"), "getrange": ("s", "0", "1"),
    "getset": ("s", "x"), "getver": ("s",), "hello": ("3", "AUTH", "@user", "@secret"), "incr": ("n",),
    "incrby": ("n", "2"), "incrbyfloat": ("n", "1.5"), "info": (), "keys": ("*",), "memory help": (),
    "memory usage": ("s",), "mget": ("s", "n"), "mset": ("s", "x"), "msetnx": ("new", "x"), "multi": (),
    "object encoding": ("s",), "object freq": ("s",), "object help": (), "object idletime": ("s",),
    "object refcount": ("s",), "once": ("OPEN",), "persist": ("s",), "pexpire": ("s", "100000"),
    "pexpireat": ("s", "9999999999999"), "pexpiretime": ("s",), "ping": (),
    "project create": ("@new",), "project delete": ("spare",), "project help": (), "project info": (),
    "project list": (), "project set-quota": ("spare", "1000"), "project token": ("LIST", "spare"),
    "project use": (PROJECT,), "psetex": ("s", "100000", "x"), "psubscribe": ("x*",), "pttl": ("s",),
    "punsubscribe": ("x*",), "quit": (), "randomkey": (), "readonly": (), "readwrite": (),
    "rename": ("s", "t"), "renamenx": ("s", "new"), "reset": (), "scan": ("0",), "select": ("0",),
    "set": ("s", "x"), "setex": ("s", "100", "x"), "setnx": ("new", "x"), "setrange": ("s", "1", "x"),
    "strlen": ("s",), "subscribe": ("x",), "substr": ("s", "0", "1"), "token": (), "touch": ("s",),
    "ttl": ("s",), "type": ("s",), "unlink": ("s",), "unsubscribe": ("x",), "unwatch": (),
    "unwatchkeys": (), "watch": ("s",), "watchkeys": ("x",), "watchver": ("s", "1"),
}  # fmt: skip

# Commands that may be given and then answer with an error of their own.
OWN_ERRORS = {
    "cluster replace": "no node", "cluster add": "no node", "cluster backup": "not under way", "cluster remove": "no node",
    "cluster transfer": "no shard", "config set": "settings cannot be changed", "discard": "without MULTI",
    "exec": "without MULTI", "object freq": "LFU", "unwatchkeys": "",
}  # fmt: skip


def documented():
    """{command: {role: yes, NOAUTH or NOPERM}} of docs/acl.md."""
    with open(os.path.join(ROOT, "docs/acl.md"), encoding="utf-8") as file:
        rows = re.findall(r"^\| `([a-z -]+)`((?: \| (?:yes|NOAUTH|NOPERM)){6}) \|$", file.read(), re.M)
    return {name: dict(zip(ROLES, cells.split(" | ")[1:])) for name, cells in rows}


def registered(client):
    """The commands that the node knows, containers that need a subcommand left out."""
    names = set()
    for entry in client.call("COMMAND", "INFO"):
        name, arity, subcommands = entry[0].decode(), entry[1], entry[9]
        if not subcommands or arity == -1:
            names.add(name)
        names.update(each[0].decode().replace("|", " ") for each in subcommands)
    return names


class AclTest(ClusterTest):
    def start_with_auth(self):
        cluster = self.make_cluster(1, shards=1)
        cluster.require_authentication()
        self.service = secrets.token_hex(16)
        path = os.path.join(cluster.directory, "service-secret")
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="ascii") as file:
            file.write(self.service)
        cluster.settings.update(service_token_file=path)
        cluster[1].write_config()
        cluster.start()
        self.closed = cluster[1]
        self.admin = Client(self.closed.port, credentials=("admin", cluster.admin_secret))
        self.addCleanup(self.admin.close)
        self.users = {"admin": ("admin", cluster.admin_secret), "service": ("service", self.service)}
        self.users["writer"] = (PROJECT, self.admin.call("PROJECT", "CREATE", PROJECT, "TOKEN", "READWRITE"))
        self.users["reader"] = (PROJECT, self.admin.call("PROJECT", "TOKEN", "ADD", PROJECT, "READONLY"))
        self.users["none"] = self.users["writer"]
        self.admin.call("PROJECT", "USE", PROJECT)

    def start_open(self):
        self.opened = self.start_cluster(1, shards=1)[1]
        self.users["open"] = (PROJECT, "anything")
        self.anybody = Client(self.opened.port, PROJECT)
        self.addCleanup(self.anybody.close)

    def connect(self, role):
        client = Client(self.opened.port if role == "open" else self.closed.port)
        if role != "none":
            client.call("AUTH", *self.users[role])
        if role in ("service", "admin"):
            client.call("PROJECT", "USE", PROJECT)
        return client

    def prepare(self, role, number):
        """The keys that the examples need, and a project to spare."""
        helper = self.anybody if role == "open" else self.admin
        helper.pipeline([("PROJECT", "CREATE", "spare"), ("FLUSHDB",), ("MSET", "n", "5", "s", "text")])
        self.words = {"@user": self.users[role][0], "@secret": self.users[role][1], "@new": f"new-{role}-{number}"}

    def outcome(self, role, name):
        """yes, NOAUTH or NOPERM, as the node answers."""
        arguments = [self.words.get(word, word) for word in EXAMPLES[name]]
        with self.connect(role) as client:
            try:
                client.call(*name.split(" "), *arguments)
            except ReplyError as error:
                if error.code in ("NOAUTH", "NOPERM"):
                    return error.code
                self.assertIn(name, OWN_ERRORS, f"{name} as {role}: {error.text}")
                self.assertIn(OWN_ERRORS[name], error.text)
            return "yes"

    @quick
    @asan
    def test_every_command_in_every_role(self):
        self.start_with_auth()
        self.start_open()
        matrix = documented()
        self.assertEqual(registered(self.admin), set(matrix), "docs/acl.md against the node's table")
        self.assertEqual(set(EXAMPLES), set(matrix), "every command needs an example here")
        different = []
        for role in ROLES:
            for number, name in enumerate(sorted(matrix)):
                self.prepare(role, number)
                found = self.outcome(role, name)
                if found != matrix[name][role]:
                    different.append(f"{name} as {role}: {found}, documented is {matrix[name][role]}")
        self.assertEqual(different, [])
        self.report(f"{len(matrix)} commands in {len(ROLES)} roles")

    @quick
    @asan
    def test_a_reader_cannot_write_in_disguise(self):
        """Every write within MULTI and behind ONCE."""
        self.start_with_auth()
        writes = [name for name, row in documented().items() if row["reader"] == "NOPERM" and row["writer"] == "yes"]
        self.assertGreater(len(writes), 20)
        session = self.admin.call("ONCE", "OPEN")
        for number, name in enumerate(sorted(writes)):
            self.prepare("reader", number)
            command = (*name.split(" "), *EXAMPLES[name])
            with self.connect("reader") as client:
                replies = client.pipeline([("MULTI",), command, ("EXEC",)])
                self.assertIsInstance(replies[-1], ReplyError, name)
                self.assertIn(replies[-1].code, ("NOPERM", "EXECABORT"), name)
                replies = client.pipeline([("ONCE", session, number + 1, *command)])
                self.assertIsInstance(replies[0], ReplyError, name)
            self.assertEqual(self.admin.call("MGET", "n", "s"), [b"5", b"text"], name)
            self.assertEqual(self.admin.call("DBSIZE"), 2, name)
