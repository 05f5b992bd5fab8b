/* Feature levels: what a cluster whose nodes run neighbouring releases can rely on. */
#ifndef NODE_RELEASE_H
#define NODE_RELEASE_H

enum { IKV_LEVEL = 1 };

#endif
