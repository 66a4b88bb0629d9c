"""`python -m bdlab_cli` is `bdlab` of this interpreter, even if the script is not on the PATH."""

from bdlab_cli.app import main

main()
