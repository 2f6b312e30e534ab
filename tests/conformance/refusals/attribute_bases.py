# advice: use isinstance()
str.__bases__
