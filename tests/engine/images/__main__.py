"""``python -m tests.engine.images``: build the parts of the Docker tests' images."""

from tests.engine.images import build

build()
