# advice: use lists, math and statistics
import numpy as np
