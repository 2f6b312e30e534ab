"""The part that talks to the host: the loop over cells, the wire, the names that a program finds, answers, contexts."""
