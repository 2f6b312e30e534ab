# advice: there are no files
from pathlib import Path
