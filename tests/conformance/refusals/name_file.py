# advice: there are no files
print(__file__)
