# advice: keep such an object in an attribute
class Meta(type):
    pass
