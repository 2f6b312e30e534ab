# language: restricted
# expect: rejected error
# why: The exceptions that the agent gives are classes of its modules.
escaped(PolicyDenied.__init__.__globals__)
