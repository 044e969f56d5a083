from hast.cli.main import main

main()
