# advice: use csv.DictReader
import pandas as pd
