# advice: re offers:
from re import functools
