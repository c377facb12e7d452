"""Generate the Python code of every proto in this folder, or check that what is committed is up to date.

Run from the project's root: `python -m schema.proto.generate [--check]` (`make proto`, `make proto-check`).

For each `x.proto` there are `x_pb2.py` (messages), `x_pb2.pyi` (their types) and `x_grpc.py` (grpclib's
stubs and bases).  protoc runs at the root because a generated import repeats the path it was given:
`schema/proto/conn.proto` becomes `schema.proto.conn_pb2`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

FOLDER: Final = Path("schema/proto")
GENERATED: Final = ("*_pb2.py", "*_pb2.pyi", "*_grpc.py")


def generate(into: Path) -> None:
    """Run protoc on every proto, writing below `into`, which plays the project's root.

    Raises:
        subprocess.CalledProcessError: a proto does not compile; protoc has said why.
    """
    # protoc finds its grpclib plugin on PATH; it is installed beside the interpreter.
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    outputs = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpclib_python")]
    protos = sorted(str(path) for path in FOLDER.glob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *protos]
    subprocess.run(command, check=True, env=os.environ | {"PATH": beside})


def differing(fresh: Path) -> Iterator[Path]:
    """Yield each generated file that is missing, left over or not what was generated below `fresh`."""
    paths = {
        path.relative_to(root)
        for root in (Path(), fresh)
        for pattern in GENERATED
        for path in (root / FOLDER).glob(pattern)
    }
    for path in sorted(paths):
        if content(path) != content(fresh / path):
            yield path


def content(path: Path) -> bytes | None:
    """Return the bytes of the file, None if there is none."""
    return path.read_bytes() if path.exists() else None


def main(arguments: list[str]) -> int:
    """Bring the generated code up to date, or with `--check` only say what is not; return the exit status."""
    with TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        outdated = list(differing(fresh))
        if "--check" in arguments:
            for path in outdated:
                print(f"{path} is not what the protos say: run `make proto`")
            return 1 if outdated else 0
        for path in outdated:
            generated = content(fresh / path)
            if generated is None:
                path.unlink()
            else:
                path.write_bytes(generated)
            print(f"{'removed' if generated is None else 'generated'} {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
