from hast.cli import main

main()
