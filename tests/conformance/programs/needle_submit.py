# expect: FINAL: {'value': 4417093, 'evidence': 'line with the needle'}
SUBMIT(value=4417093, evidence="line with the needle")
