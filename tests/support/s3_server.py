"""An S3 server on loopback that checks signatures, for the tests of stores in buckets."""

import atexit
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from typing import Any

REGION = "us-east-1"
# The user, her policy and her key are made before signatures are checked.
UNCHECKED_ACTIONS = 3
# Few, so that a store has more objects than one list.
KEYS_PER_LIST = 20
# It ends with its parent, however that ends: then nothing holds its input open any more.
PROGRAM = """
import os, sys, threading
from moto.server import main
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
main(sys.argv[1:])
"""
EVERYTHING = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}


@dataclass(frozen=True)
class S3Server:
    """A running server, and the key of its one user."""

    endpoint: str
    access_key: str
    secret_key: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of a program that is to use it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": REGION,
        }

    def client(self, service: str = "s3") -> Any:
        """boto3's client of the server: a look at buckets that owes nothing to what is tested."""
        return _client(service, self.endpoint, self.access_key, self.secret_key)

    def new_bucket(self) -> str:
        """The name of an empty bucket."""
        name = f"bucket-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        return name

    def objects(self, bucket: str, prefix: str = "") -> dict[str, bytes]:
        """Every object of a bucket whose key begins with `prefix`, by the rest of its key."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {
            key.removeprefix(prefix): client.get_object(Bucket=bucket, Key=key)["Body"].read()
            for key in keys
        }


@cache
def running_s3_server() -> S3Server:
    """The server that all tests share; it ends with the process."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "-H", "127.0.0.1", "-p", str(port)],
        env=os.environ
        | {
            "INITIAL_NO_AUTH_ACTION_COUNT": str(UNCHECKED_ACTIONS),
            "MOTO_S3_DEFAULT_MAX_KEYS": str(KEYS_PER_LIST),
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdin is not None
    for end in (server.wait, server.terminate, server.stdin.close):  # the last one first
        atexit.register(end)
    _wait_for(server, port)
    identities = _client("iam", endpoint, "setup", "setup")
    identities.create_user(UserName="tester")
    identities.put_user_policy(
        UserName="tester", PolicyName="everything", PolicyDocument=json.dumps(EVERYTHING)
    )
    key = identities.create_access_key(UserName="tester")["AccessKey"]
    return S3Server(endpoint, key["AccessKeyId"], key["SecretAccessKey"])


def free_port() -> int:
    """A port on loopback that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the S3 server ended while it started"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the S3 server did not start within a minute")


@cache
def _client(service: str, endpoint: str, access_key: str, secret_key: str) -> Any:
    import boto3

    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
    )
