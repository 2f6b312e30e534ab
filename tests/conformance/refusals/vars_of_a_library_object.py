# advice: vars() works on objects of your own classes
from collections import Counter
vars(Counter)
