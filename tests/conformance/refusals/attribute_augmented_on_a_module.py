# advice: objects of your own classes
import math
math.pi += 1
