# advice: keep such an object in an attribute
import datetime
class D(datetime.datetime):
    pass
