"""The box image in a Docker daemon: it is the jail's, it is made again when it is not, and the Dockerfile agrees.

What is not about the content is tried with an image of two files, with a digest of its own, so that it disturbs no
other. What no real daemon does on demand is done by `Told`, a daemon that answers what it was told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.server
import io
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import sysconfig
import tarfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import docker
import docker.errors
import pytest

from belljar.errors import BoxFault
from belljar.sandbox.docker.daemon import Daemon
from belljar.sandbox.docker.image import LoadedImage, ensure_loaded, layer_bytes, loaded_images
from belljar.sandbox.image import Image, ensure_image, lay_out, stored_images
from tests.integration.support import Jar

ROOT = Path(__file__).resolve().parents[2]
NOBODY = 65534
SHELLS = {"sh", "bash", "dash", "ash", "zsh", "ksh", "csh", "tcsh", "fish", "busybox", "toybox", "env", "ldd"}


@pytest.fixture
def client(docker_host: str) -> Iterator[docker.APIClient]:
    with contextlib.closing(docker.APIClient(base_url=docker_host, version="1.41", timeout=120)) as client:
        yield client


def load(host: str, image: Image) -> LoadedImage:
    async def go() -> LoadedImage:
        daemon = Daemon(host)
        try:
            return await ensure_loaded(daemon, image)
        finally:
            daemon.close()

    return asyncio.run(go())


def tag_of(image: Image) -> str:
    return f"belljar:{image.digest[7:23]}"


def remember(image: Image) -> Path:
    return image.root.with_name(f"{image.root.name}.layer.json")


@pytest.fixture
def small(tmp_path: Path, docker_host: str, client: docker.APIClient) -> Iterator[Callable[[], Image]]:
    """Makes images of two files and a link, no two the same; what the daemon got of them is removed afterwards."""
    made = []

    def make() -> Image:
        name = hashlib.sha256(uuid.uuid4().bytes).hexdigest()
        root = tmp_path / "images" / name
        (root / "usr").mkdir(parents=True)
        (root / "tmp").mkdir(mode=0o700)
        (root / "usr" / "name").write_text(name)
        (root / "usr" / "empty").touch()
        (root / "lib").symlink_to("usr/lib")
        made.append(Image(digest=f"sha256:{name}", root=root))
        return made[-1]

    yield make
    for image in made:
        remove_all(client, image)


def remove_all(client: docker.APIClient, image: Image) -> None:
    """What has the label of `image`, what was made from others before these."""
    while found := client.images(all=True, filters={"label": f"belljar.digest={image.digest}"}):
        parents = {inspect(client, each["Id"])["Parent"] for each in found}
        for each in found:
            if each["Id"] not in parents:
                client.remove_image(each["Id"], force=True)


def inspect(client: docker.APIClient, image: str) -> dict[str, Any]:
    return dict(client.inspect_image(image))  # type: ignore[no-untyped-call]


# ------------------------------------------------------------------------------------------------------------ the layer


@pytest.fixture(scope="module")
def ours(images: Path) -> Image:
    return ensure_image(images)


def members(data: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getmembers()


def test_the_layer_holds_no_shell_no_set_id_file_and_no_times(ours: Image) -> None:
    found = members(b"".join(layer_bytes(ours.root)))
    assert [member.name for member in found] == sorted(member.name for member in found)
    assert not SHELLS & {member.name.rpartition("/")[2] for member in found}
    assert {member.name for member in found if member.name.startswith("usr/bin/")} == {"usr/bin/python3"}
    assert {member.mtime for member in found} == {0}
    assert {(member.uname, member.gname, tuple(member.pax_headers)) for member in found} == {("", "", ())}
    for member in found:
        assert member.isreg() or member.isdir() or member.issym(), member.name
        assert member.mode & 0o7000 == 0, member.name
        assert member.issym() or member.mode & 0o022 == 0, member.name
        owner = NOBODY if member.name == "tmp" else 0
        assert (member.uid, member.gid) == (owner, owner), member.name
    (scratch,) = (member for member in found if member.name == "tmp")
    assert scratch.mode == 0o700


def test_the_layer_is_the_folder_and_nothing_else(ours: Image) -> None:
    there = {path.relative_to(ours.root).as_posix(): path for path in ours.root.rglob("*")}
    data = b"".join(layer_bytes(ours.root))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = {member.name: member for member in archive.getmembers()}
        assert found.keys() == there.keys()
        for name, path in there.items():
            assert found[name].mode == stat.S_IMODE(path.lstat().st_mode)
            if path.is_symlink():
                assert found[name].linkname == str(path.readlink())
            elif path.is_file():
                content = archive.extractfile(found[name])
                assert content is not None
                assert content.read() == path.read_bytes()


def test_whoever_lays_it_out_whenever_gets_the_same_bytes(ours: Image, tmp_path: Path) -> None:
    """By the module's own command, as the Dockerfile does, and with a umask that would leave nobody anything."""
    again = tmp_path / "again"
    command = [sys.executable, "-m", "belljar.sandbox.image", str(again)]
    done = subprocess.run(command, capture_output=True, text=True, umask=0o077, timeout=60, check=True)
    assert done.stdout.strip() == ours.digest
    os.utime(again / "usr", (1, 1))
    digests = [hashlib.sha256(b"".join(layer_bytes(root))).hexdigest() for root in (ours.root, again)]
    assert digests[0] == digests[1]


def test_it_is_laid_out_in_an_empty_folder_only(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(BoxFault, match=r"is not empty: name a folder that is"):
        lay_out(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("what", ["set-id", "device"])
def test_what_no_image_of_ours_has_is_not_put_into_a_layer(small: Callable[[], Image], what: str) -> None:
    image = small()
    if what == "set-id":
        (image.root / "usr" / "name").chmod(0o4755)
    else:
        os.mkfifo(image.root / "usr" / "pipe")
    with pytest.raises(BoxFault, match=r"is a device or has a set-id bit"):
        list(layer_bytes(image.root))


# --------------------------------------------------------------------------------------------------------- in a daemon


def config_of(client: docker.APIClient, image: str) -> dict[str, Any]:
    return dict(inspect(client, image)["Config"])


def test_the_image_is_loaded_once_and_is_what_we_say(ours: Image, docker_host: str, client: docker.APIClient) -> None:
    loaded = load(docker_host, ours)
    again = load(docker_host, ours)
    assert (again.id, again.digest, again.loaded_now) == (loaded.id, ours.digest, False)
    assert tag_of(ours) in again.tags
    config = config_of(client, loaded.id)
    assert config["User"] == "65534:65534"
    boot = "/usr/lib/belljar/guest/box/boot.py"
    assert config["Entrypoint"] == ["/usr/bin/python3", "-s", "-P", "-S", "-B", "-X", "utf8", boot]
    assert config["WorkingDir"] == "/tmp"
    assert not config["Env"]
    assert not config["Cmd"]
    assert config["Labels"].keys() == {"belljar.digest", "belljar.agent", "belljar.recipe"}
    assert config["Labels"]["belljar.digest"] == ours.digest
    assert config["Labels"]["belljar.agent"] == loaded.agent == metadata.version("belljar")
    layer = hashlib.sha256(b"".join(layer_bytes(ours.root))).hexdigest()
    assert inspect(client, loaded.id)["RootFS"]["Layers"] == [f"sha256:{layer}"]
    assert json.loads(remember(ours).read_bytes())["diff_id"] == f"sha256:{layer}"


def test_the_agent_wakes_up_in_it_and_leaves_when_nobody_speaks(
    ours: Image, docker_host: str, client: docker.APIClient
) -> None:
    assert left_alone(client, load(docker_host, ours).id) == (0, "")


def left_alone(client: docker.APIClient, image: str) -> tuple[int, str]:
    """How a container of `image` ends whose standard input is empty, and what it says."""
    host = client.create_host_config(network_mode="none", read_only=True, cap_drop=["ALL"])
    container = client.create_container(image, stdin_open=True, host_config=host)["Id"]
    try:
        client.start(container)
        _attached(client, container).close()
        code = client.wait(container, timeout=60)["StatusCode"]
        return code, client.logs(container).decode()
    finally:
        client.remove_container(container, force=True)


def _attached(client: docker.APIClient, container: str) -> socket.socket:
    hijacked = client.attach_socket(container, params={"stdin": 1, "stream": 1})
    stream = socket.socket(fileno=os.dup(hijacked.fileno()))
    hijacked._response.close()
    return stream


def test_one_that_is_there_is_listed(small: Callable[[], Image], docker_host: str) -> None:
    image = small()
    loaded = load(docker_host, image)

    async def listed() -> list[LoadedImage]:
        daemon = Daemon(docker_host)
        try:
            return await loaded_images(daemon)
        finally:
            daemon.close()

    (found,) = [each for each in asyncio.run(listed()) if each.digest == image.digest]
    assert loaded.loaded_now
    assert (found.id, found.agent, found.tags) == (loaded.id, loaded.agent, (tag_of(image),))
    assert found.size_bytes == loaded.size_bytes >= 64


def test_a_tag_that_stands_for_another_image_is_taken_back(
    small: Callable[[], Image], docker_host: str, client: docker.APIClient
) -> None:
    first, second = small(), small()
    right, other = load(docker_host, first), load(docker_host, second)
    client.tag(other.id, "belljar", tag_of(first).partition(":")[2])
    again = load(docker_host, first)
    assert (again.id, again.loaded_now) == (right.id, True)
    assert inspect(client, tag_of(first))["Id"] == right.id


@pytest.mark.parametrize(
    "line",
    [
        "USER 0:0",
        'ENTRYPOINT ["/usr/bin/other"]',
        'CMD ["more"]',
        "ENV LD_PRELOAD=/tmp/x.so",
        "LABEL belljar.agent=0.0.0",
        "LABEL more=1",
        "VOLUME /data",
        "EXPOSE 80",
        'HEALTHCHECK CMD ["/usr/bin/other"]',
        "STOPSIGNAL SIGINT",
        "ONBUILD USER 0:0",
    ],
)
def test_the_right_files_with_another_configuration_are_not_taken_for_ours(
    small: Callable[[], Image], docker_host: str, client: docker.APIClient, line: str
) -> None:
    image = small()
    right = load(docker_host, image)
    text = f"FROM {tag_of(image)}\n{line}\n".encode()
    list(client.build(fileobj=io.BytesIO(text), tag=tag_of(image), rm=True, forcerm=True, use_config_proxy=False))
    wrong = inspect(client, tag_of(image))
    assert wrong["Id"] != right.id
    assert wrong["RootFS"] == inspect(client, right.id)["RootFS"]
    again = load(docker_host, image)
    assert (again.id, again.loaded_now) == (right.id, True)


def test_many_at_once_end_with_the_same_image(small: Callable[[], Image], docker_host: str) -> None:
    image = small()

    async def together() -> list[LoadedImage]:
        daemons = [Daemon(docker_host) for _ in range(6)]
        try:
            return await asyncio.gather(*(ensure_loaded(daemon, image) for daemon in daemons))
        finally:
            for daemon in daemons:
                daemon.close()

    found = asyncio.run(together())
    assert len({each.id for each in found}) == 1
    assert [path.name for path in image.root.parent.iterdir() if path.suffix == ".partial"] == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"format": 0, "diff_id": "sha256:0", "size_bytes": 1}', b"[]"])
def test_what_is_remembered_of_a_layer_is_no_more_than_a_help(
    small: Callable[[], Image], docker_host: str, content: bytes
) -> None:
    image = small()
    remember(image).write_bytes(content)
    loaded = load(docker_host, image)
    assert loaded.loaded_now
    assert json.loads(remember(image).read_bytes())["diff_id"].startswith("sha256:")
    assert load(docker_host, image).id == loaded.id


def test_a_folder_that_has_changed_since_is_not_loaded(
    small: Callable[[], Image], docker_host: str, client: docker.APIClient
) -> None:
    """The daemon recomputes what it is given: other content, or more of it, is no layer of that name."""
    image = small()
    load(docker_host, image)
    client.remove_image(tag_of(image))
    (image.root / "usr" / "name").write_text("0" * 64)
    with pytest.raises(BoxFault, match=r"did not load the image|refused|no Docker daemon answers"):
        load(docker_host, image)
    (image.root / "usr" / "more").write_text("x" * 5000)
    with pytest.raises(BoxFault):
        load(docker_host, image)
    with pytest.raises(docker.errors.ImageNotFound):
        inspect(client, tag_of(image))


# ----------------------------------------------------------------------------------------- a daemon that does it wrong


class Told:
    """A Docker daemon that gives these answers: `loading` to a load, `inspecting` to everything else.

    It calls `pause` for each piece of a load. `cut`: a load ended in the middle.
    """

    def __init__(
        self, *, loading: tuple[int, object], inspecting: tuple[int, object], pause: Callable[[], object] = int
    ) -> None:
        self.cut = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.say(*inspecting)

            def do_POST(self) -> None:
                while size := int(self.rfile.readline() or b"-1", 16):
                    if size < 0:
                        told.cut.set()
                        return
                    self.rfile.read(size + 2)
                    pause()
                self.rfile.readline()
                self.say(*loading)

            def say(self, status: int, document: object) -> None:
                data = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        told = self
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def host(self) -> str:
        return f"tcp://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


NOT_THERE = (404, {"message": "No such image"})
ANOTHER = {
    "Id": "sha256:1",
    "RepoTags": [],
    "Size": 1,
    "Architecture": "amd64",
    "Os": "linux",
    "RootFS": {"Type": "layers", "Layers": ["sha256:2"]},
    "Config": {"User": "0:0"},
}


@pytest.mark.parametrize(
    ("loading", "inspecting", "message"),
    [
        ((200, {"error": "no space\nleft"}), NOT_THERE, r"did not load the image belljar:\w{16}: no space left$"),
        ((500, {"message": "read-only"}), NOT_THERE, r"refused: read-only$"),
        ((200, {}), NOT_THERE, r"took the image belljar:\w{16} but does not have it: try again$"),
        ((200, {}), (200, ANOTHER), r"is not the one that was loaded \(different: RootFS, User, .*\): find out who"),
        ((200, {}), (500, {"message": "broken"}), r"refused: broken$"),
    ],
)
def test_a_daemon_that_does_not_have_ours_in_the_end_gets_no_box(
    tmp_path: Path, loading: tuple[int, object], inspecting: tuple[int, object], message: str
) -> None:
    image = Image(digest=f"sha256:{'1' * 64}", root=tmp_path / ("1" * 64))
    (image.root / "tmp").mkdir(parents=True)
    with Told(loading=loading, inspecting=inspecting) as told, pytest.raises(BoxFault, match=message) as fault:
        load(told.host, image)
    assert "\n" not in str(fault.value)


def test_a_load_that_nobody_waits_for_any_more_is_not_finished(ours: Image) -> None:
    begun, left = threading.Event(), threading.Event()

    def pause() -> None:
        begun.set()
        left.wait(20)

    async def leave(host: str) -> None:
        daemon = Daemon(host)
        loading = asyncio.create_task(ensure_loaded(daemon, ours))
        await asyncio.to_thread(begun.wait, 20)
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await loading
        daemon.close()
        assert loading.cancelled()

    with Told(loading=(200, {}), inspecting=NOT_THERE, pause=pause) as told:
        asyncio.run(leave(told.host))
        left.set()
        assert told.cut.wait(20)


def test_without_a_daemon_the_fault_says_what_to_do(tmp_path: Path) -> None:
    image = Image(digest=f"sha256:{'1' * 64}", root=tmp_path / ("1" * 64))
    (image.root / "tmp").mkdir(parents=True)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(BoxFault, match=r"no Docker daemon answers at .*: start it, or name another in DOCKER_HOST"):
            load(f"tcp://127.0.0.1:{nobody.getsockname()[1]}", image)


# ----------------------------------------------------------------------------------------------------- the command line


def test_image_build_makes_it_once(jar: Jar) -> None:
    state = jar.work / "state"
    first, second = (jar("image", "build", "--state", state, "--json") for _ in range(2))
    assert (first.code, second.code) == (0, 0)
    built = first.document["image"]
    (stored,) = stored_images(state / "images")
    assert (built["backend"], built["digest"], built["where"]) == ("jail", stored.digest, str(stored.root))
    assert built["size_bytes"] == sum(path.lstat().st_size for path in stored.root.rglob("*") if is_plain(path))
    assert (first.document["was_there"], second.document["was_there"]) == (False, True)
    assert second.document["image"] == built
    plain = jar("image", "build", "--state", state)
    assert plain.stdout.split()[:2] == [stored.digest, "jail"]
    assert "it already existed" in plain.stdout


def is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


@pytest.mark.parametrize("backend", ["docker", "gvisor"])
def test_image_build_loads_it_into_the_daemon(jar: Jar, ours: Image, docker_host: str, backend: str) -> None:
    env = {"DOCKER_HOST": docker_host}
    outcome = jar("image", "build", "--backend", backend, "--json", env=env)
    assert outcome.code == 0, outcome.stderr
    built, loaded = outcome.document["image"], load(docker_host, ours)
    assert not loaded.loaded_now
    assert built == {"backend": backend, "digest": ours.digest, "where": loaded.id, "size_bytes": loaded.size_bytes}
    assert jar("image", "build", "--backend", backend, "--json", env=env).document["was_there"] is True
    listed = jar("image", "ls", "--json", env=env).document
    assert listed["daemon"] == docker_host
    lines = [(each["backend"], each["digest"], each["where"]) for each in listed["images"]]
    assert ("jail", ours.digest, str(jar.state.images / ours.digest[7:])) in lines
    assert ("docker", ours.digest, loaded.id) in lines
    assert loaded.id in jar("image", "ls", env=env).stdout


def test_without_a_daemon_build_fails_with_one_line_and_ls_lists_the_rest(jar: Jar, ours: Image) -> None:
    env = {"DOCKER_HOST": f"unix://{jar.work}/nobody.sock"}
    outcome = jar("image", "build", "--backend", "docker", env=env)
    assert (outcome.code, outcome.stdout) == (1, "")
    assert outcome.stderr.splitlines()[-1].startswith("belljar: our fault: no Docker daemon answers at unix://")
    listed = jar("image", "ls", "--json", env=env)
    assert listed.code == 0
    assert listed.document["daemon"] is None
    assert [each["digest"] for each in listed.document["images"]] == [ours.digest]
    assert listed.complaint.startswith("belljar: only the jail's images are listed: no Docker daemon answers")


# ------------------------------------------------------------------------------------------------------ the Dockerfile


@pytest.fixture(scope="module")
def from_base(docker_host: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The Dockerfile, built on a stand-in for a public Python image, without a network: its ID and what was said."""
    folder, name = tmp_path_factory.mktemp("base"), f"belljar-test-{uuid.uuid4().hex[:12]}"
    with contextlib.closing(docker.APIClient(base_url=docker_host, version="1.41", timeout=120)) as client:
        made = [json.loads(client.import_image(src=str(stand_in(folder)), repository=name, tag="base"))["status"]]
        try:
            lines = list(
                client.build(
                    path=str(ROOT),
                    dockerfile="sandbox_images/Dockerfile",
                    tag=f"{name}:built",
                    buildargs={"BASE": f"{name}:base"},
                    network_mode="none",
                    rm=True,
                    forcerm=True,
                    use_config_proxy=False,
                    decode=True,
                )
            )
            said = "".join(line.get("stream", "") + line.get("error", "") for line in lines)
            made += [word for line in said.splitlines() if line.startswith(" ---> ") for word in line.split()[1:2]]
            assert not [line for line in lines if "error" in line], said
            yield inspect(client, f"{name}:built")["Id"], said
        finally:
            for each in (f"{name}:built", *reversed(made)):
                with contextlib.suppress(docker.errors.NotFound, docker.errors.APIError):
                    client.remove_image(each, force=True)


def stand_in(folder: Path) -> Path:
    """A tar of this Python where the public images have theirs, with pip, a shell and the tools that a build uses."""
    root, version = folder / "base", f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for name in ("usr/local/bin", "usr/bin", "usr/lib", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64"):
        (root / name).symlink_to("usr/lib" if name.startswith("lib") else "usr/bin")
    library = root / "usr/local/lib" / version
    left_out = shutil.ignore_patterns("test", "tests", "site-packages", "dist-packages", "__pycache__", "config-*")
    shutil.copytree(sysconfig.get_path("stdlib"), library, ignore=left_out, symlinks=True)
    packages = library / "site-packages"
    packages.mkdir()
    (library / "dist-packages").symlink_to("site-packages")
    for name in ("pip", "msgspec", "RestrictedPython", "tzdata"):
        for found in packages_of(name):
            shutil.copytree(found, packages / found.name, ignore=shutil.ignore_patterns("__pycache__"))
    interpreter = Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))
    programs = {f"usr/local/bin/{version}": interpreter}
    programs |= {f"usr/bin/{name}": Path(str(shutil.which(name))) for name in ("bash", "ldd", "mkdir", "mv")}
    for name, source in programs.items():
        shutil.copy(os.path.realpath(source), root / name)
    (root / "usr/local/bin/python").symlink_to(version)
    (root / "usr/bin/sh").symlink_to("bash")
    copy_shared_objects([*programs.values(), *library.rglob("*.so"), *packages.rglob("*.so")], root / "usr/lib")
    with tarfile.open(folder / "base.tar", "w") as archive:
        archive.add(root, ".")
    return folder / "base.tar"


def packages_of(name: str) -> list[Path]:
    """A package of this environment, and the folder with what is known about it."""
    site = Path(sysconfig.get_path("purelib"))
    return [site / name, *site.glob(f"{name}-*.dist-info"), *site.glob(f"{name.lower()}-*.dist-info")][:2]


def copy_shared_objects(users: list[Path], target: Path) -> None:
    listed = subprocess.run(["ldd", *map(str, users)], capture_output=True, text=True, timeout=60, check=False).stdout
    for word in {word for line in listed.splitlines() for word in line.split() if word.startswith("/")}:
        if not word.endswith(":"):
            shutil.copy(os.path.realpath(word), target / Path(word).name)


def tree(client: docker.APIClient, image: str) -> dict[str, tuple[object, ...]]:
    """What a container of `image` finds: each name with kind, mode, owner and content."""
    container = client.create_container(image)["Id"]
    try:
        data = io.BytesIO(b"".join(client.export(container)))
    finally:
        client.remove_container(container, force=True)
    found: dict[str, tuple[object, ...]] = {}
    with tarfile.open(fileobj=data) as archive:
        for member in archive.getmembers():
            content = archive.extractfile(member) if member.isreg() else None
            digest = hashlib.sha256(content.read()).hexdigest() if content is not None else member.linkname
            found[member.name.rstrip("/")] = (member.type, oct(member.mode & 0o7777), member.uid, member.gid, digest)
    return found


def test_the_dockerfile_lays_out_the_same_files(
    from_base: tuple[str, str], ours: Image, docker_host: str, client: docker.APIClient
) -> None:
    """On the same Python every byte is the same; on another the standard library is another."""
    image, said = from_base
    theirs, mine = tree(client, image), tree(client, load(docker_host, ours).id)
    assert {name for name in theirs if name.startswith("usr/lib/belljar")} > {"usr/lib/belljar/guest/box/boot.py"}
    assert {name: theirs.get(name) for name in mine} == mine
    assert theirs.keys() == mine.keys()
    assert f"\n{ours.digest}\n" in said
    assert theirs["tmp"][1:4] == ("0o700", NOBODY, NOBODY)


def test_the_dockerfile_gives_the_same_configuration(
    from_base: tuple[str, str], ours: Image, docker_host: str, client: docker.APIClient
) -> None:
    theirs, mine = config_of(client, from_base[0]), config_of(client, load(docker_host, ours).id)
    for key in ("User", "Entrypoint", "Cmd", "WorkingDir", "Volumes", "OnBuild", "ExposedPorts", "Healthcheck"):
        assert (theirs.get(key) or None) == (mine.get(key) or None), key
    assert without_digest(theirs["Labels"]) == without_digest(mine["Labels"])
    # What every build from nothing has, and a box is started without.
    assert {each.partition("=")[0] for each in theirs["Env"] or ()} <= {"PATH"}


def without_digest(labels: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name != "belljar.digest"}


def test_the_agent_wakes_up_in_what_the_dockerfile_makes(from_base: tuple[str, str], client: docker.APIClient) -> None:
    assert left_alone(client, from_base[0]) == (0, "")


def test_the_dockerfile_installs_what_the_project_locks() -> None:
    locked = (ROOT / "requirements-dev.lock").read_text()
    wanted = (ROOT / "sandbox_images" / "requirements.lock").read_text()
    blocks = [f"{name}=={block}" for name, block in zip(*[iter(wanted_blocks(wanted))] * 2, strict=True)]
    assert len(blocks) == 3
    assert all(block in locked for block in blocks)


def wanted_blocks(text: str) -> list[str]:
    """Name, rest, name, rest: the requirements of a lock file with all their hashes."""
    parts = [part for part in text.split("\n") if not part.startswith("#")]
    found: list[str] = []
    for part in parts:
        if "==" in part:
            found += part.split("==", 1)
        elif part:
            found[-1] += f"\n{part}"
    return found
