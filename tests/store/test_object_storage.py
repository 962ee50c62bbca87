"""What only a bucket has: a URL, an environment, and a server that may fail, with its words."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from support.s3_server import KEYS_PER_LIST, S3Server, running_s3_server

from declip_pipeline.errors import InputError, StoreError
from declip_pipeline.store import s3
from declip_pipeline.store.s3 import MULTIPART_BYTES, ObjectStorage, Patience
from declip_pipeline.store.storage import join_location, sibling_location, storage_at

KEY, SECRET = "AKIATESTKEY", "a-secret/of+some=kind"


@pytest.fixture
def server(monkeypatch) -> S3Server:
    """The server, as the environment names it."""
    server = running_s3_server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def root(server) -> str:
    return f"s3://{server.new_bucket()}"


@pytest.fixture
def answering(monkeypatch):
    """Starts a server that gives these answers, (status, body), in turn, the last for ever."""

    @contextmanager
    def start(*answers: tuple[int, str]) -> Iterator[list[str]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers[min(len(asked), len(answers) - 1)]
                asked.append(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", '"0"')
                self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *arguments: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
            yield asked
            server.shutdown()
            thread.join()

    for name, value in (("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)):
        monkeypatch.setenv(name, value)
    return start


def answer(code: str, message: str) -> str:
    """An error as S3 says it."""
    return f"<Error><Code>{code}</Code><Message>{message}</Message><Key>x</Key></Error>"


@pytest.mark.slow
@pytest.mark.parametrize("slashes", ["{}/a/b", "{}/a/b/", "{}//a///b//", "{}/a/b///"])
def test_slashes_too_many_are_left_out(root, slashes):
    storage = storage_at(slashes.format(root))
    assert storage.location == f"{root}/a/b"
    storage.write("key", [slashes.encode()])
    assert storage_at(f"{root}/a").sizes() == {"b/key": len(slashes)}


@pytest.mark.slow
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_bucket_itself_is_a_place(root, slash):
    storage = storage_at(root + slash)
    assert storage.location == root
    assert storage.sizes() == {}
    storage.write("key", [b"1"])
    storage.write("a/b/c", [b"12"])
    assert storage.sizes() == {"key": 1, "a/b/c": 2}
    assert storage.folders() == ["a"]
    assert storage_at(join_location(root + slash, "a", "b")).read("c") == b"12"
    storage.delete_all()
    assert storage.sizes() == {}


def test_places_around_a_url():
    assert join_location("s3://bucket", "a", "b") == "s3://bucket/a/b"
    assert join_location("s3://bucket/c/", "a") == "s3://bucket/c/a"
    assert sibling_location("s3://bucket/c/a/", "b") == "s3://bucket/c/b"


def test_more_objects_than_a_list_has(server, root):
    count = 2 * KEYS_PER_LIST + 1
    for number in range(count):
        bucket = root.removeprefix("s3://")
        server.client().put_object(Bucket=bucket, Key=f"many/{number:04d}/x", Body=b"")
    storage = storage_at(f"{root}/many")
    assert len(storage.sizes()) == count
    assert storage.folders() == [f"{number:04d}" for number in range(count)]
    storage.delete_all()
    assert server.objects(bucket) == {}


def test_the_server_copies_what_is_linked(root, monkeypatch):
    source, target = storage_at(f"{root}/source"), storage_at(f"{root}/target")
    source.write("key", [b"x" * (MULTIPART_BYTES + 1)])
    for method in ("read", "read_part", "prepare"):
        monkeypatch.setattr(ObjectStorage, method, None)
    target.link("key", source, "key")
    assert target.sizes() == source.sizes() == {"key": MULTIPART_BYTES + 1}


def test_linking_between_buckets_carries_the_bytes(server, root):
    source, target = storage_at(f"s3://{server.new_bucket()}/source"), storage_at(root)
    source.write("key", [b"data"])
    target.link("key", source, "key")
    assert target.read("key") == b"data"


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("s3://key:sec/ret@bucket/x", "an s3:// URL with ':', '@', '?' or '#' was given; expected"),
        ("s3://key:sec/ret", "an s3:// URL with"),
        ("s3://bucket/x?secret=sec/ret", "an s3:// URL with"),
        ("s3://bucket/x#y", "an s3:// URL with"),
        ("s3://bucket:9000/x", "and the server in AWS_ENDPOINT_URL"),
        ("s3:/key:sec/ret@bucket", "s3: without // was given; expected s3://BUCKET/FOLDER"),
        ("s3://", "s3:// names no bucket; expected s3://BUCKET/FOLDER"),
        ("s3:///x", "s3:///x names no bucket"),
        ("s3://my bucket/x", "'my bucket' cannot be a bucket; expected s3://BUCKET/FOLDER, a buc"),
        ("s3://[::1/x", "an s3:// URL with"),
        ("s3://bucket/a/../b", "s3://bucket/a/../b has '.' or '..' in it; a bucket has no such"),
        ("gs://bucket/x", "gs://... is not supported; expected a folder or s3://BUCKET/FOLDER"),
        ("https://key:sec/ret@host/x", "https://... is not supported; expected a folder or s3://"),
    ],
)
def test_a_url_of_another_form(url, line):
    with pytest.raises(InputError) as error:
        storage_at(url)
    assert line in str(error.value)
    assert "sec" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("AWS_ACCESS_KEY_ID", "AKIA\n", "AWS_ACCESS_KEY_ID holds a space, a line break or another"),
        ("AWS_SECRET_ACCESS_KEY", "sec ret", "AWS_SECRET_ACCESS_KEY holds a space"),
        ("AWS_SESSION_TOKEN", "tokén", "AWS_SESSION_TOKEN holds a space"),
        ("AWS_REGION", "eu\n", "AWS_REGION holds a space, a line break .*; set it again"),
        ("AWS_SECRET_ACCESS_KEY", "", "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not"),
        ("AWS_ACCESS_KEY_ID", "", "AWS_SECRET_ACCESS_KEY is set and AWS_ACCESS_KEY_ID is not; set"),
        ("AWS_ENDPOINT_URL", "localhost:9000", "AWS_ENDPOINT_URL is not the address of a server; "),
        ("AWS_ENDPOINT_URL", "http://", "expected such as https://s3.example.org or http://127"),
        ("AWS_ENDPOINT_URL_S3", "http://key:secret@host", "AWS_ENDPOINT_URL_S3 is not the address"),
        ("AWS_SKIP_SIGNATURE", "maybe", 'the environment\'s AWS_ .* "maybe" as boolean; correct'),
    ],
)
def test_an_environment_that_cannot_be_meant(server, monkeypatch, name, value, line):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=line) as error:
        storage_at("s3://bucket/x")
    for secret in ("secret", server.access_key, server.secret_key):
        assert secret not in str(error.value)


@pytest.mark.parametrize("end", ["", "/", "///"])
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
def test_every_variable_for_the_endpoint(server, root, monkeypatch, name, end):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv(name, server.endpoint + end)
    storage_at(root).write("key", [b"1"])
    assert storage_at(root).sizes() == {"key": 1}


@pytest.mark.parametrize(
    ("status", "body", "line"),
    [
        (
            403,
            answer("AccessDenied", f"no {KEY} may with {SECRET}"),
            "no permission to read s3://bucket/x (AccessDenied, no $AWS_ACCESS_KEY_ID may with "
            "$AWS_SECRET_ACCESS_KEY); check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
            "AWS_SESSION_TOKEN and what that key may do",
        ),
        (
            400,
            answer("ExpiredToken", "The provided token has expired."),
            "no permission to read s3://bucket/x (ExpiredToken, The provided token has expired.); "
            "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and what that key "
            "may do",
        ),
        (
            400,
            answer("AuthorizationHeaderMalformed", "the region 'a' is wrong; expecting 'b'"),
            "cannot read s3://bucket/x (AuthorizationHeaderMalformed, the region 'a' is wrong; "
            "expecting 'b'); check AWS_ENDPOINT_URL and AWS_REGION, and run the same command again",
        ),
        (
            404,
            answer("NoSuchBucket", "The specified bucket does not exist"),
            "cannot read s3://bucket/x: there is no such bucket; check its name, AWS_ENDPOINT_URL "
            "and AWS_REGION, or make the bucket first",
        ),
        (
            401,
            "<html>\n<h1>Who are you?</h1>\n</html>",
            "no permission to read s3://bucket/x (401 Unauthorized); check AWS_ACCESS_KEY_ID, "
            "AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and what that key may do",
        ),
        (
            500,
            "<html>\n<h1>Oh no</h1>\n</html>",
            "cannot read s3://bucket/x (500 Internal Server Error); check AWS_ENDPOINT_URL and "
            "AWS_REGION, and run the same command again",
        ),
    ],
)
def test_an_answer_is_reduced_to_its_reason(answering, status, body, line):
    with answering((status, body)):
        with pytest.raises(StoreError) as error:
            storage_at("s3://bucket").read("x")
        assert str(error.value) == line
        # A traceback shows what an error comes from.
        assert error.value.__cause__ is None
        assert error.value.__suppress_context__


def test_a_redirect_to_another_region(answering):
    with answering((301, answer("PermanentRedirect", "use the other endpoint"))):
        with pytest.raises(StoreError, match=r"check AWS_ENDPOINT_URL and AWS_REGION") as error:
            storage_at("s3://bucket").read("x")
        assert "region" in str(error.value).partition(";")[0]
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_pause_of_a_server_that_has_answered_is_waited_out(answering):
    failure = (503, answer("SlowDown", "Please reduce your request rate."))
    with answering((200, "one"), *[failure] * 4, (200, "two")) as asked:
        storage = storage_at("s3://bucket/folder")
        assert storage.read("x") == b"one"
        assert storage.read("y") == b"two"
        assert len(asked) == 6


def test_a_first_failure_is_said_soon(answering):
    with answering((503, answer("SlowDown", "Please reduce your request rate."))) as asked:
        with pytest.raises(StoreError, match=r"\(SlowDown, Please reduce your request rate.\); ch"):
            storage_at("s3://bucket/folder").read("x")
        assert len(asked) == 3


@pytest.mark.slow
def test_a_server_that_is_silent(answering, monkeypatch):
    at_first = s3.AT_FIRST
    # Connecting and reading can each take this long, once more after the time for all is nearly up.
    assert at_first.total + max(at_first.connect, at_first.read) < 10
    monkeypatch.setattr(s3, "AT_FIRST", Patience(connect=1, read=1, retries=5, total=1))
    with answering((200, "")), socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        began = time.monotonic()
        with pytest.raises(StoreError, match=f"no answer from {endpoint} .it took too long.; che"):
            storage_at("s3://bucket").read("x")
        assert time.monotonic() - began < 4


def test_an_unknown_host(server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://no-such-host.invalid")
    with pytest.raises(
        StoreError, match=r"cannot list s3://bucket/x: no answer from https://no-such-host.invalid "
    ):
        storage_at("s3://bucket/x").sizes()
