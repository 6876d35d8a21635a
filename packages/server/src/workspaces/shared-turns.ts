/** What storage says and what the rows say of it change together. */
export const documentsTurn = 'documents'

/** What nothing refers to is looked for and removed, or what storage holds is brought back bit by bit: never both at once. */
export const collectionTurn = 'collection'
