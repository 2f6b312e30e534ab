# language: restricted
# expect: rejected error
# why: The class of the paged text leads to the globals of the agent's module.
escaped(context.__class__.__init__.__globals__)
