# language: python
# expect: error
# says: mine
# why: An error that might be a limit's makes nobody look inside, where the program would be asked about itself.
raise OSError("mine")
