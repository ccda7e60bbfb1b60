// The program ghcoord: installing it, and what its processes get of the step's environment.
'use strict'

const { spawn } = require('node:child_process')
const path = require('node:path')

// The runner's channels, which are this step's alone, and the secrets that come with them.
const WITHHELD =
  /^(INPUT_|STATE_|ACTIONS_|GITHUB_(ENV|OUTPUT|PATH|STATE|STEP_SUMMARY|TOKEN)$|NODE_OPTIONS$|PYTHON(PATH|HOME|STARTUP)$)/

const GITHUB = 'https://github.com'

/** Where ghcoord runs. The settings of what is checked out, maybe somebody's pull request, are read only if told to. */
const folder = (given) => given || process.env.RUNNER_TEMP

/** The environment for ghcoord: the token goes here, never into a command line. */
function environment(token, extra = {}) {
  const kept = Object.entries(process.env).filter(([name]) => !WITHHELD.test(name))
  const env = { ...Object.fromEntries(kept), PYTHONUNBUFFERED: '1', ...extra }
  if (token) {
    env.GH_TOKEN = token
    // A server of one's own takes the token by this name alone; no other host gets it.
    if ((env.GITHUB_SERVER_URL || GITHUB) !== GITHUB) env.GH_ENTERPRISE_TOKEN = token
  }
  return env
}

/** Run a program, in a group of its own, to its end; resolves to { code, out, err }. `onChild` is given the child. */
function run(program, args, env, cwd, onChild = () => {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env, cwd, detached: true, stdio: ['ignore', 'pipe', 'pipe'] })
    onChild(child)
    const said = { out: '', err: '' }
    child.stdout.setEncoding('utf8').on('data', (text) => (said.out += text))
    child.stderr.setEncoding('utf8').on('data', (text) => (said.err += text))
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code: code === null ? `signal ${signal}` : code, ...said }))
  })
}

/** Install ghcoord from the checkout that this action is part of; resolves to the folder of the program. */
async function install(say, onChild) {
  const script = path.join(__dirname, '..', 'lib', 'install.sh')
  const done = await run('bash', [script], environment(''), folder(''), onChild)
  if (done.err.trim()) say(done.err.trim())
  if (done.code !== 0) throw new Error(`ghcoord could not be installed (${done.code}): see the log of this step`)
  return done.out.trim()
}

module.exports = { environment, folder, run, install }
