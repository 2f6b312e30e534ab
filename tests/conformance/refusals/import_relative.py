# advice: write the module's full name
from . import secrets
