# advice: objects of your own classes
from collections import Counter
Counter.update = None
