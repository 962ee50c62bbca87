"""Stores in a bucket: every command on s3:// URLs, against a server that checks signatures."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import obstore.store
import pytest
import zarr
from support.s3_server import S3Server, free_port, running_s3_server
from zarr.storage import ObjectStore

from declip_pipeline.datasets.opening import open_dataset
from declip_pipeline.datasets.samples import Samples
from declip_pipeline.extraction import shard_filling
from declip_pipeline.extraction.extract import extract_store
from declip_pipeline.store import format as fmt
from declip_pipeline.store.reader import Store
from declip_pipeline.store.s3 import ObjectStorage
from declip_pipeline.store.writer import StoreWriter

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
ROWS, ROWS_PER_SHARD, SHARDS = 15, 4, 4


@pytest.fixture
def server(monkeypatch) -> S3Server:
    """The server, as the environment names it."""
    server = running_s3_server()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def bucket(server) -> str:
    return server.new_bucket()


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of which the tiny dataset fills several."""
    monkeypatch.setattr(fmt, "ROWS_PER_SHARD", ROWS_PER_SHARD)


@pytest.fixture(scope="module")
def local_files(shared_dataset, tiny_backbone, tmp_path_factory) -> dict[str, bytes]:
    """What an undisturbed extraction with small shards leaves on a local disk."""
    root = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fmt, "ROWS_PER_SHARD", ROWS_PER_SHARD)
        run_extract(shared_dataset, tiny_backbone, root)
    return files_of(root)


def files_of(root: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in root.rglob("*")
        if file.is_file()
    }


def run_extract(dataset, backbone, root, layers=("layer0", "layer3")):
    opened = open_dataset(dataset)
    return extract_store(opened, backbone, layers=layers, root=root, batch_size=4)


def read_all(store: Store, layer: str) -> np.ndarray:
    return store.read_layer(layer, np.arange(store.header.rows)).decoded().numpy()


@pytest.mark.slow
def test_extract_train_evaluate_and_no_trace_of_the_credentials(
    program, server, bucket, shared_dataset, tiny_arch, tmp_path
):
    extraction = ("extract", shared_dataset, *tiny_arch, "--layers", "0,3", "--batch-size", 4)
    first = program(*extraction, "--cache", f"s3://{bucket}/cache/")
    assert first.code == 0, first.err
    location = first.last_line
    assert location.startswith(f"s3://{bucket}/cache/noisy/")
    again = program(*extraction, "--cache", f"s3://{bucket}/cache")
    assert (again.code, again.last_line) == (0, location)
    assert "complete already, nothing to do" in again.err

    assert program(*extraction, "--cache", tmp_path / "cache").code == 0
    assert server.objects(bucket, "cache/") == files_of(tmp_path / "cache")

    training = ("--feature-layer", "layer3", "--decoder-type", "linear", "--epochs", 2)
    trained = program("train", location, *training, "--batch-size", 4, "-o", tmp_path / "runs")
    assert trained.code == 0, trained.err
    run = Path(trained.last_line)
    evaluated = program("evaluate", run, "--on", location)
    assert evaluated.code == 0, evaluated.err
    assert "noisy: IoU" in evaluated.out

    shown = [o.out + o.err for o in (first, again, trained, evaluated)]
    kept = [*server.objects(bucket).values(), *files_of(tmp_path).values()]
    for secret in (server.access_key, server.secret_key):
        assert not any(secret in text for text in shown)
        assert not any(secret.encode() in data for data in kept)


@pytest.mark.slow
def test_zarr_python_reads_the_same_from_the_bucket(server, bucket, shared_dataset, tiny_backbone):
    location = run_extract(shared_dataset, tiny_backbone, f"s3://{bucket}").location
    objects = obstore.store.S3Store(
        bucket,
        prefix=location.removeprefix(f"s3://{bucket}/"),
        config={"endpoint": server.endpoint},
        client_options={"allow_http": True},
    )
    group = zarr.open_group(ObjectStore(objects, read_only=True), mode="r")
    store = Store(location)
    for layer in store.layers:
        np.testing.assert_array_equal(group["layers"][layer][:], read_all(store, layer))
    targets = store.read_targets(np.arange(ROWS))
    np.testing.assert_array_equal(group["targets"][:], targets)
    assert targets.any()


@pytest.mark.slow
def test_an_interrupted_extraction_goes_on_and_ends_with_the_same_objects(
    server, bucket, shared_dataset, tiny_backbone, local_files, small_shards, monkeypatch
):
    root = f"s3://{bucket}/cache"
    written = []
    write_shard = StoreWriter.write_shard

    def interrupted(self, shard, *arguments):
        if len(written) == 2:
            # A shard of which some files are there, and the ledger's entry is not.
            with monkeypatch.context() as inner:
                inner.setattr(ObjectStorage, "write", failing_write)
                write_shard(self, shard, *arguments)
        write_shard(self, shard, *arguments)
        written.append(shard)

    write = ObjectStorage.write

    def failing_write(self, key, pieces):
        if key.startswith(fmt.LEDGER):
            raise KeyboardInterrupt
        write(self, key, pieces)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "write_shard", interrupted)
        # One after another, so that it is known how far it came.
        patch.setattr(shard_filling, "SHARDS_BEING_WRITTEN", 1)
        with pytest.raises(KeyboardInterrupt):
            run_extract(shared_dataset, tiny_backbone, root)
    assert len(written) == 2
    half = server.objects(bucket, "cache/")
    assert sum("/ledger/" in key for key in half) == 2
    assert sum("/layers/layer0/c." in key for key in half) == 3
    assert not any(key.endswith(fmt.COMPLETE) for key in half)

    run_extract(shared_dataset, tiny_backbone, root)
    whole = server.objects(bucket, "cache/")
    assert whole == local_files
    assert sum("/ledger/" in key for key in whole) == SHARDS


@pytest.mark.slow
def test_a_store_grows_by_copies_that_the_server_makes(
    server, bucket, shared_dataset, tiny_backbone, small_shards, monkeypatch
):
    root = f"s3://{bucket}/cache"
    first = run_extract(shared_dataset, tiny_backbone, root, ["layer1"])
    computed, carried = [], []
    forward, put = type(tiny_backbone).features, ObjectStorage.put

    def counted_forward(self, images, layers):
        computed.append(tuple(layers))
        return forward(self, images, layers)

    def counted_put(self, key, data):
        carried.append(key)
        put(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(type(tiny_backbone), "features", counted_forward)
        patch.setattr(ObjectStorage, "put", counted_put)
        second = run_extract(shared_dataset, tiny_backbone, root, ["layer1", "layer2"])
    assert second.reused == [first.location]
    assert set(computed) == {("layer2",)}
    shards = {key.rpartition("/")[0] for key in carried if "/c." in key}
    assert "layers/layer2" in shards
    assert not {"layers/layer1", "targets", "masks", "thumbnails"} & shards

    run_extract(shared_dataset, tiny_backbone, f"s3://{bucket}/fresh", ["layer1", "layer2"])
    grown = server.objects(bucket, second.location.removeprefix(f"s3://{bucket}/"))
    fresh = server.objects(bucket, "fresh/")
    assert sorted(fresh.values()) == sorted(grown.values())


@pytest.mark.slow
def test_of_two_extractors_that_begin_at_once_the_first_decides(
    server, bucket, shared_dataset, tiny_backbone, small_shards, monkeypatch
):
    """The manifest of another comes between looking for one and creating it."""
    create = ObjectStorage.create
    refused = []

    def late(self, key, data):
        if key != fmt.MANIFEST:
            return create(self, key, data)
        reversed_samples = Samples.from_parquet(data)[::-1]
        assert create(self, key, reversed_samples.to_parquet())
        refused.append(not create(self, key, data))
        return False

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "create", late)
        extraction = run_extract(shared_dataset, tiny_backbone, f"s3://{bucket}/late")
    assert refused == [True]
    usual = Store(run_extract(shared_dataset, tiny_backbone, f"s3://{bucket}/usual").location)
    late_store = Store(extraction.location)
    assert [s.id for s in late_store.samples] == [s.id for s in usual.samples][::-1]
    np.testing.assert_allclose(
        read_all(late_store, "layer3")[::-1], read_all(usual, "layer3"), rtol=1e-2, atol=1e-3
    )


@pytest.mark.slow
def test_two_extractors_at_work_on_one_store_end_with_the_same_objects(
    server, bucket, shared_dataset, tiny_backbone, local_files, small_shards
):
    with ThreadPoolExecutor(2) as extractors:
        both = [
            extractors.submit(run_extract, shared_dataset, tiny_backbone, f"s3://{bucket}/both")
            for _ in range(2)
        ]
        assert len({extraction.result().location for extraction in both}) == 1
    assert server.objects(bucket, "both/") == local_files


@pytest.fixture
def extracted(program, server, bucket, shared_dataset, tiny_arch, small_shards) -> str:
    """A store in the bucket, of two layers in small shards."""
    outcome = program(
        *("extract", shared_dataset, *tiny_arch, "--layers", "0,3", "--batch-size", 4),
        *("--cache", f"s3://{bucket}/cache"),
    )
    assert outcome.code == 0, outcome.err
    return outcome.last_line


@pytest.mark.slow
def test_verify_finds_and_mends_damaged_objects(program, server, bucket, extracted):
    prefix = extracted.removeprefix(f"s3://{bucket}/") + "/"
    good = server.objects(bucket, prefix)
    for depth in ((), ("--deep",)):
        verified = program("cache", "verify", extracted, *depth)
        assert (verified.code, verified.out[:33]) == (0, "ok: 5 arrays, 4 shards, 15 rows, ")

    flipped = bytearray(good["layers/layer3/c.1.0.0"])
    flipped[100] ^= 1
    client = server.client()
    client.put_object(Bucket=bucket, Key=f"{prefix}layers/layer3/c.1.0.0", Body=bytes(flipped))
    client.delete_object(Bucket=bucket, Key=f"{prefix}layers/layer0/c.2.0.0")
    shallow = program("cache", "verify", extracted)
    assert (shallow.code, shallow.last_line) == (1, "1 problem")
    assert shallow.out.startswith("layers/layer0, shard 2: its file is missing (images/")
    deep = program("cache", "verify", extracted, "--deep")
    assert (deep.code, deep.last_line) == (1, "2 problems")
    assert "layers/layer3, shard 1: a chunk's checksum differs (images/" in deep.out

    mended = program("cache", "verify", extracted, "--repair")
    assert mended.code == 0, mended
    assert server.objects(bucket, prefix) == good


@pytest.mark.slow
def test_the_other_commands_on_stores(program, server, bucket, extracted, tmp_path):
    table = program("cache", "ls", f"s3://{bucket}/cache")
    assert table.code == 0
    assert [line.split()[-2:] for line in table.out.splitlines()[1:]] == [["complete", extracted]]
    shown = json.loads(program("cache", "info", extracted, "--json").out)
    assert (shown["location"], shown["dataset"]) == (extracted, "noisy")

    good = server.objects(bucket, "cache/")
    assert program("cache", "export", extracted, tmp_path / "store.h5").code == 0
    back = program("cache", "import", tmp_path / "store.h5", "--cache", f"s3://{bucket}/back")
    assert back.code == 0, back.err
    assert server.objects(bucket, "back/") == good

    pruned = program("cache", "prune", extracted, "--layers", "layer0")
    assert pruned.code == 0, pruned.err
    assert list(Store(pruned.last_line).layers) == ["layer3"]
    left = server.objects(bucket, "cache/")
    assert not any(f"s3://{bucket}/cache/{key}".startswith(extracted) for key in left)
    assert server.objects(bucket, "back/") == good


@pytest.fixture
def try_to_extract(refused, shared_dataset, tiny_arch):
    """Runs `extract` on a cache that cannot be used; gives its line, which comes soon."""

    def run(cache: str, code: int = 1) -> str:
        began = time.monotonic()
        line = refused("extract", shared_dataset, *tiny_arch, "--cache", cache, code=code)
        assert time.monotonic() - began < 15
        return line

    return run


def test_credentials_that_are_wrong(try_to_extract, server, bucket, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    line = try_to_extract(f"s3://{bucket}/cache")
    assert line.startswith(
        f"no permission to list s3://{bucket}/cache (SignatureDoesNotMatch, The request signature "
    )
    assert "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and what" in line
    assert "wrong-secret" not in line
    assert server.access_key not in line

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAUNKNOWN")
    line = try_to_extract(f"s3://{bucket}/cache")
    assert "(InvalidAccessKeyId, The AWS Access Key Id you provided does not exist" in line
    assert "AKIAUNKNOWN" not in line
    assert server.objects(bucket) == {}


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "evaluate", "verify"])
def test_reading_with_wrong_credentials(command, refused, server, bucket, tiny_run, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    store = f"s3://{bucket}/cache/noisy/tiny/store"
    arguments = {
        "train": ("train", store, "--feature-layer", "layer3"),
        "evaluate": ("evaluate", tiny_run, "--on", store),
        "verify": ("cache", "verify", store),
    }
    line = refused(*arguments[command], code=1)
    assert line.startswith(f"no permission to read {store}/zarr.json (SignatureDoesNotMatch, ")


def test_no_credentials(try_to_extract, server, bucket, monkeypatch):
    for name in CREDENTIALS:
        monkeypatch.delenv(name)
    # Where a cloud machine would answer with the credentials of its role.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    line = try_to_extract(f"s3://{bucket}/cache")
    assert (
        "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the "
        "environment (files in ~/.aws are not read)"
    ) in line

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.access_key)
    line = try_to_extract(f"s3://{bucket}/cache", code=2)
    assert line == "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not; set both"


def test_a_bucket_that_is_not_there(refused, server, tmp_path):
    # Said before anything is read: these images are not there either.
    line = refused(
        *("extract", tmp_path / "nowhere", "--arch", "efficientnet-lite0"),
        *("--cache", "s3://no-such-bucket/cache"),
        code=1,
    )
    assert line == (
        "cannot list s3://no-such-bucket/cache: there is no such bucket; check its name, "
        "AWS_ENDPOINT_URL and AWS_REGION, or make the bucket first"
    )
    line = refused("train", "s3://no-such-bucket/store", "--feature-layer", "layer3", code=1)
    assert line.startswith("cannot read s3://no-such-bucket/store/zarr.json: there is no such")


def test_a_server_that_is_not_there(try_to_extract, bucket, monkeypatch):
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    line = try_to_extract(f"s3://{bucket}/cache")
    assert f": no answer from {endpoint} (Connection refused); check AWS_ENDPOINT_URL and" in line


def test_what_is_no_store(refused, server, bucket):
    server.client().put_object(Bucket=bucket, Key="other/notes.txt", Body=b"hello")
    for place in (f"s3://{bucket}/other", f"s3://{bucket}/nowhere", f"s3://{bucket}"):
        line = refused("train", place, "--feature-layer", "layer3", code=1)
        assert line.startswith(f"{place} is not a feature store; expected what `declip-pipe")


@pytest.mark.parametrize(
    ("cache", "line"),
    [
        (
            "s3://AKIAKEY:se/cret@bucket/cache",
            "an s3:// URL with ':', '@', '?' or '#' was given; expected s3://BUCKET/FOLDER, with "
            "credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) and the "
            "server in AWS_ENDPOINT_URL",
        ),
        ("s3://", "names no bucket; expected s3://BUCKET/FOLDER"),
        ("s3:///cache", "names no bucket; expected s3://BUCKET/FOLDER"),
        ("s3:/bucket/cache", "s3: without // was given; expected s3://BUCKET/FOLDER"),
        ("gs://bucket/x", "gs://... is not supported; expected a folder or s3://BUCKET/FOLDER"),
        ("http://127.0.0.1/x", "http://... is not supported; expected a folder or s3://BUCKET"),
    ],
)
def test_a_location_that_cannot_be_meant(cache, line, try_to_extract, refused, server, tmp_path):
    for found in (
        try_to_extract(cache, code=2),
        refused("train", cache, "--feature-layer", "layer3", "-o", tmp_path),
    ):
        assert line in found
        assert "cret" not in found
        assert "AKIAKEY" not in found
