"""`python -m bdlab_cli` is `bdlab` of this interpreter, also where the script is not on the PATH."""

from bdlab_cli.app import main

main()
