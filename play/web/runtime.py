"""onnxruntime-web: downloaded once from the npm registry, checked, and kept in the user's cache."""

import base64
import hashlib
import io
import os
import tarfile
import urllib.request
from http.client import HTTPException
from pathlib import Path

from envs.trust import cache_folder
from worldmodel.errors import UserError, one_line
from worldmodel.storage.files import file_digest, written_whole

VERSION = "1.30.0"
REGISTRY = "https://registry.npmjs.org"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FILES = {  # of the package's folder `dist`, and their sha256
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
}
MOST_BYTES = 2**28
TIMEOUT_S = 60


def runtime_files() -> list[Path]:
    """The files of the runtime, downloaded if necessary.

    Raises:
        UserError: they can't be downloaded, or are not what they should be.
    """
    folder = cache_folder() / f"onnxruntime-web-{VERSION}"
    paths = [folder / name for name in FILES]
    if not all(map(_is_right, paths)):
        package = _downloaded()
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
            for path in paths:
                member = archive.extractfile(f"package/dist/{path.name}")
                assert member is not None
                with written_whole(path) as unfinished:
                    unfinished.write_bytes(member.read())
    return paths


def _is_right(path: Path) -> bool:
    return path.is_file() and file_digest(path) == FILES[path.name]


def _downloaded() -> bytes:
    registry = os.environ.get("NPM_CONFIG_REGISTRY", REGISTRY).rstrip("/")
    address = f"{registry}/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT_S) as response:
            content = response.read(MOST_BYTES + 1)
    except (OSError, ValueError, HTTPException) as error:
        raise UserError(
            f"the page's runtime could not be downloaded from {address} ({one_line(error)}): "
            "connect to the network and try again, or set NPM_CONFIG_REGISTRY to a mirror"
        ) from None
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        raise UserError(f"{address} has an unexpected checksum: try again, or use another mirror")
    return content
