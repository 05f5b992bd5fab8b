// The addon in several environments at once; one ends with a request under way.
const { Worker, isMainThread, workerData } = require('node:worker_threads');
const { connect } = require('invoke-kv');

async function use(nodes) {
  const store = await connect({ nodes });
  await store.project('worker').incr('n');
  return store;
}

async function main() {
  const nodes = process.argv[2].split(',');
  const store = await use(nodes);
  const workers = [1, 2, 3].map((number) => new Worker(__filename, { workerData: { nodes, number } }));
  await Promise.all(workers.map((worker) => new Promise((resolve) => worker.on('exit', resolve))));
  if ((await store.project('worker').get('n')) === 4) {
    console.log('fine');
  }
  await store.close();
}

async function work() {
  const store = await use(workerData.nodes);
  if (workerData.number === 1) {
    await store.close();
  } else if (workerData.number === 2) {
    store.project('worker').get('n').catch(() => {});
    process.exit();
  }
}

(isMainThread ? main() : work()).catch((error) => {
  console.error(error);
  process.exit(1);
});
