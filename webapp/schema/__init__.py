"""The JSON contract ``/api/v1`` as pydantic models: request bodies, answers, and problems.

The interface, the OpenAPI document, the command line and clients share these models. Of the rest of Warden, they import
only ``webapp.message``.
"""

from webapp.schema.base import *
from webapp.schema.operations import *
from webapp.schema.plans import *
from webapp.schema.problems import *
from webapp.schema.queries import *
from webapp.schema.queue import *
from webapp.schema.records import *
from webapp.schema.requests import *
from webapp.schema.server import *
