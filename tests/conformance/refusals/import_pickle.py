# advice: use json or copy.deepcopy
import pickle
