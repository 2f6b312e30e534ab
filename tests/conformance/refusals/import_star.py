# advice: list the names that you need
from math import *
