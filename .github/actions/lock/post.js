// Releases the lock, whatever became of the job; fails it when the lock had been lost.
'use strict'

const fs = require('node:fs')
const path = require('node:path')
const ghcoord = require('./ghcoord.js')
const runner = require('./runner.js')

const LEASE_LOST = 5 // exit code

/** What ghcoord said, without what its errors begin with. */
const reason = (done) => (done.err.trim().split('\n').pop() || `it ended with ${done.code}`).replace(/^error: /, '')

async function main() {
  const { STATE_folder: folder, STATE_bin: bin, STATE_hub: hub } = process.env
  const token = runner.input('token')
  runner.mask(token)
  if (!folder || !bin) {
    runner.say('nothing was taken, nothing to release')
    return 0
  }
  const env = ghcoord.environment(token, { GHCOORD_HUB: hub })
  const cwd = ghcoord.folder(runner.input('folder'))
  const done = await ghcoord.run(path.join(bin, 'ghcoord'), ['actions', 'unlock', `--folder=${folder}`], env, cwd)
  if (process.env.RUNNER_DEBUG === '1') runner.say(fs.readFileSync(path.join(folder, 'holder.log'), 'utf8'))
  if (done.code === 0) {
    runner.say(done.out.trim())
    return 0
  }
  if (done.code === LEASE_LOST) {
    runner.error(`${reason(done)}. What this job did may have run beside another one.`, 'Lock lost')
    return 1
  }
  runner.warning(`${reason(done)}. The lease is not renewed any longer and ends by itself.`, 'Lock not released')
  return 0
}

main().then(
  (code) => process.exit(code),
  (problem) => {
    runner.error(problem.message, 'Lock')
    process.exit(1)
  },
)
