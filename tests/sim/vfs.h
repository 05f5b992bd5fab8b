/* SQLite on the simulated disk. */
#ifndef SIM_VFS_H
#define SIM_VFS_H

/* Makes it SQLite's default. Once, before anything else of SQLite but its configuration. */
void vfs_install(void);

#endif
