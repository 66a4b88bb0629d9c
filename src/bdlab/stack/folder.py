"""The data folder of a local stack: its lock, what runs there, and the files that the services read."""

import contextlib
import fcntl
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Self, get_args

import msgspec

from bdlab.errors import StackError, StackInUse
from bdlab.files import replace_file, write_private
from bdlab.retry import tries
from bdlab.services import BDLAB, Deployment
from bdlab.stack.servers.process import start_mark

BrokerKind = Literal["kafka", "tansu"]


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """The addresses of a running stack. `pid` and `start_mark` are those of its `bdlab up`. `ca_file` verifies Vault,
    Postgres and the API; "" if they speak no TLS. `admin_servers` is a secured broker's address for administrators.
    `console_url` is "" if there is none. `model` is the name of the model, `model_path` its file; "" is what is
    promoted, or else the shipped one."""

    pid: int
    start_mark: str
    http_url: str
    console_url: str = ""
    vault_address: str
    bootstrap_servers: str
    admin_servers: str = ""
    ca_file: str = ""
    postgres_host: str
    postgres_port: int
    model: str = ""
    model_path: str = ""

    @property
    def sslmode(self) -> str:
        return "verify-full" if self.ca_file else "disable"


class DataFolder:
    """`path` and the files in it. With `with` it is locked: a second process gets StackInUse."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        #: The services' settings, without any secret.
        self.config_file = self.path / "bdlab.toml"
        #: What the first set-up of Vault needs, the database administrator's password included.
        self.env_file = self.path / ".env"
        self.keys_file = self.path / "vault-keys.json"
        #: Exists while a restore fills the folder.
        self.unfinished = self.path / "unfinished"
        self.identity_dir = self.path / "identity"
        #: The servers' certificates, a subfolder for each.
        self.tls = self.path / "tls"
        #: Versions of models, and what the API has read of them.
        self.registry, self.model_cache = self.path / "registry", self.path / "cache"
        self.logs, self.records = self.path / "logs", self.path / "run"
        self._endpoints_file = self.records / "stack.json"
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
            self.records.mkdir(exist_ok=True, mode=0o700)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            what = f"the data folder {self.path} cannot be used: {error.strerror}"
            raise StackError(what, hint="Name one that you may write with --data-dir.") from error
        with contextlib.ExitStack() as opened:
            opened.callback(os.close, lock)
            # The process before may be about to end.
            for _ in tries(1.0, longest_s=0.05):
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
            else:
                holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "?"
                hint = f"Use it (bdlab env --data-dir {self.path}), stop it, or name another folder with --data-dir."
                raise StackInUse(f"another bdlab (process {holder}) runs a stack on {self.path}", hint=hint)
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            opened.callback(self._endpoints_file.unlink, missing_ok=True)
            self._opened = opened.pop_all()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._opened.close()

    def record_location(self) -> None:
        """Write down the folder's path: from now on its Vault knows its database by it."""
        if not self._kept("place"):
            replace_file(self.path / "place", os.fsencode(self.path))

    @property
    def keys_lost(self) -> bool:
        """Whether the first set-up was killed between Vault's initialisation and writing its keys."""
        cut_off = self.keys_file.exists() and self.keys_file.stat().st_size == 0
        return cut_off and not self._kept("place") and not any(self.identity_dir.glob("*/role_id"))

    def check_location(self) -> None:
        """Raise StackError if the folder was moved, or a restore into it did not end."""
        if self.unfinished.exists():
            what = f"a `bdlab restore` into {self.path} was cut off, and what is there is not whole"
            raise StackError(what, hint=f"Remove it (rm -r {self.path}), and restore again.")
        recorded = self._kept("place")
        if recorded and not (Path(recorded).exists() and Path(recorded).samefile(self.path)):
            what = f"the data folder was moved from {recorded} to {self.path}"
            hint = f"Move it back, or link to it: ln -s {self.path} {recorded}"
            raise StackError(f"{what}, and its Vault knows its database by the old path", hint=hint)

    def _kept(self, name: str) -> str:
        file = self.path / name
        return os.fsdecode(file.read_bytes()) if file.exists() else ""

    def has_tls(self, wanted: bool | None) -> bool:
        """Return whether the servers of this folder speak TLS: as at their first start, or as `wanted`. Raises
        StackError if that differs, since their Vault knows its database by it."""
        if not (self.path / "openbao").exists():
            return bool(wanted)
        secured = (self.tls / "ca.pem").exists()
        if wanted is not None and wanted != secured:
            how, option = ("with", "--no-tls") if secured else ("without", "--tls")
            what = f"the data folder {self.path} was set up {how} TLS, and keeps to it"
            raise StackError(what, hint=f"Leave {option} out, or name another folder with --data-dir.")
        return secured

    @property
    def deployment(self) -> Deployment:
        """Whose names the servers of this folder have."""
        return Deployment(self._kept("deployment") or BDLAB)

    def keep_deployment(self, wanted: Deployment) -> None:
        """Keep it in a new folder. In one of another, raise StackError, unless it is `bdlab`, the default."""
        if not (self.path / "openbao").exists():
            replace_file(self.path / "deployment", wanted.encode())
        if wanted not in (BDLAB, self.deployment):
            hint = f"Name another folder for {wanted} with --data-dir, or leave BDLAB_DEPLOYMENT out."
            raise StackError(f"the data folder {self.path} keeps to the deployment {self.deployment}", hint=hint)

    @property
    def model_path(self) -> str:
        """The model that was last chosen for this folder; "" is what is promoted, or else the shipped one."""
        return self._kept("model")

    def keep_model(self, path: str) -> None:
        replace_file(self.path / "model", os.fsencode(path))

    @property
    def broker(self) -> BrokerKind | None:
        """The kind of broker that has its log; None for a new folder. A folder of an earlier version does not say it:
        then it is the one that was started last."""
        kept: BrokerKind | None = msgspec.convert(self._kept("broker") or None, BrokerKind | None)
        if kept:
            return kept
        logs = {kind: self.logs / f"{kind}.log" for kind in get_args(BrokerKind) if (self.path / kind).is_dir()}
        return max(logs, key=lambda kind: logs[kind].stat().st_mtime if logs[kind].exists() else 0, default=None)

    def keep_broker(self, kind: BrokerKind) -> None:
        replace_file(self.path / "broker", kind.encode())

    def write_config(self, sections: Mapping[str, Mapping[str, str | int | float]]) -> None:
        lines = ["# Written by `bdlab up` at each start; set what you want to change in the environment.", ""]
        lines += [f'deployment = "{self.deployment}"', ""]
        for section, values in sections.items():
            lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items()), ""]
        replace_file(self.config_file, "\n".join(lines).encode())

    def write_env(self, values: Mapping[str, str]) -> None:
        """Write the file for the first set-up, readable by its owner only. Unquoted, " #" would begin a comment."""
        escaped = {name: value.replace("\\", "\\\\").replace("'", "\\'") for name, value in values.items()}
        write_private(self.env_file, "".join(f"{name}='{value}'\n" for name, value in escaped.items()))

    def processes(self) -> list[int]:
        """Return the ids of the processes that work in this folder, as a stack's all do."""
        here = self.path.resolve()
        return sorted(pid for pid, place in _workplaces() if place.is_relative_to(here))

    def publish(self, endpoints: Endpoints) -> None:
        """Record that the stack is up, for `running`."""
        replace_file(self._endpoints_file, msgspec.json.encode(endpoints))

    def running(self) -> Endpoints:
        """Return the addresses of the stack of this folder. Raises StackError if none runs."""
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            endpoints = msgspec.json.decode(self._endpoints_file.read_bytes(), type=Endpoints)
            if start_mark(endpoints.pid) == endpoints.start_mark:
                return endpoints
        hint = f"Start one with `bdlab up --data-dir {self.path}`, and wait until it says that it is up."
        raise StackError(f"no local stack is up on {self.path}", hint=hint)


def _workplaces() -> Iterator[tuple[int, Path]]:
    """Yield the id and the current folder of each process that this user may look at."""
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            yield int(link.parent.name), link.readlink()


def running_folders() -> Iterator[DataFolder]:
    """Yield the data folder of each stack of this user that is up: its processes work in it."""
    for folder in sorted({folder for _, place in _workplaces() for folder in (place, *place.parents)}):
        with contextlib.suppress(StackError):
            DataFolder(folder).running()
            yield DataFolder(folder)


_EXPORTS: Mapping[str, str] = tomllib.loads(Path(__file__).with_name("exports.toml").read_text("utf-8"))
EXPORTED = tuple(_EXPORTS)
"""The names of the variables that `exports` may set."""


def exports(folder: DataFolder, endpoints: Endpoints) -> dict[str, str]:
    """Return the environment variables, without empty ones, that point a terminal at the stack of `folder`. Variables
    of this terminal that are about another Vault or model are emptied."""
    of_another_stack = ("VAULT_NAMESPACE", "BDLAB_VAULT_NAMESPACE", "BDLAB_VAULT_PROXY", "BDLAB_MODEL_PATH")
    foreign = {name: "" for name in of_another_stack if os.environ.get(name)}
    values = {name: form.format(folder=folder, endpoints=endpoints) for name, form in _EXPORTS.items()}
    return foreign | {name: value for name, value in values.items() if value}
