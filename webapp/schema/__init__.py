"""The JSON contract ``/api/v1`` as pydantic models: what is sent, what is answered, and problems.

Interface, OpenAPI document, command line and clients use the same models. They know nothing of the program behind them.
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
