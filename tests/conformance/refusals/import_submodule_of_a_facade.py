# advice: json.decoder is not available
from json.decoder import scanstring
