# advice: the document is in `context`
from os.path import join
