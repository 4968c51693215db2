"""Who else can do it: one file per library, imported only where that library is asked for."""
