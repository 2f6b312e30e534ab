# advice: compare with `is`
id(context)
