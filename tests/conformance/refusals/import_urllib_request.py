# advice: there is no network
from urllib.request import urlopen
