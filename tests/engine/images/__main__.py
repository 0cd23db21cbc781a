"""``python -m tests.engine.images``: make what the images of the Docker tests need."""

from tests.engine.images import build

build()
