// Takes the lock: starts the process that holds it, and waits until it does.
'use strict'

const { spawn } = require('node:child_process')
const crypto = require('node:crypto')
const fs = require('node:fs')
const path = require('node:path')
const { setTimeout: sleep } = require('node:timers/promises')
const ghcoord = require('./ghcoord.js')
const runner = require('./runner.js')

const LOOK_EVERY = 200 // ms
const LEAVE_WITHIN = 5000 // ms; the runner gives a cancelled step 7.5 s until SIGTERM, and 2.5 s more

const OVER = ['released', 'refused', 'stopped', 'lost', 'failed']

let cancelled = false
let installing = null
for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    cancelled = true
    if (installing && installing.pid) process.kill(-installing.pid, 'SIGTERM')
  })
}

/** This repository, as `ghcoord actions worker` has it: `github:OWNER/NAME`, on a server of one's own with its host. */
function ownHub() {
  const host = new URL(process.env.GITHUB_SERVER_URL || 'https://github.com').host
  const name = process.env.GITHUB_REPOSITORY
  return process.env.GHCOORD_GITHUB_API || host === 'github.com' ? `github:${name}` : `github://${host}/${name}`
}

/** Nobody else's: jobs of a matrix and of a run's second attempt have the same id. */
function ownOwner() {
  const { GITHUB_REPOSITORY: repo, GITHUB_RUN_ID: run, GITHUB_RUN_ATTEMPT: attempt, GITHUB_JOB: job } = process.env
  return `${repo} run ${run}.${attempt} ${job} ${crypto.randomBytes(3).toString('hex')}`
}

function details() {
  const { GITHUB_SERVER_URL: server, GITHUB_REPOSITORY: repo, GITHUB_RUN_ID: run } = process.env
  const known = {
    run: `${server}/${repo}/actions/runs/${run}`,
    workflow: process.env.GITHUB_WORKFLOW,
    commit: process.env.GITHUB_SHA,
    runner: process.env.RUNNER_NAME,
  }
  return Object.entries(known).flatMap(([name, value]) => (value ? [`--meta=${name}=${value.slice(0, 200)}`] : []))
}

function commandLine(name, owner, folder) {
  const given = { ttl: runner.input('ttl'), permits: runner.input('permits') }
  const options = Object.entries(given).flatMap(([option, value]) => (value ? [`--${option}=${value}`] : []))
  if (runner.flag('shared')) options.push('--shared')
  const wait = runner.input('wait') || '0'
  const most = runner.input('max-hold') || '6h'
  const fixed = [`--folder=${folder}`, `--owner=${owner}`, `--wait=${wait}`, `--at-most=${most}`]
  return ['actions', 'lock', ...fixed, ...options, ...details(), '--', name]
}

/** How the holder says it stands; null while it has said nothing. */
function look(folder) {
  try {
    return JSON.parse(fs.readFileSync(path.join(folder, 'state.json'), 'utf8'))
  } catch (problem) {
    if (problem.code === 'ENOENT') return null
    throw problem
  }
}

/** Start the holder, in a session of its own: it outlives this step. */
function start(program, args, env, cwd, folder) {
  const log = fs.openSync(path.join(folder, 'holder.log'), 'a', 0o600)
  const child = spawn(program, args, { env, cwd, detached: true, stdio: ['ignore', log, log] })
  const ended = new Promise((resolve) => {
    child.on('error', (problem) => resolve(problem.message))
    child.on('exit', (code, signal) => resolve(code === null ? `signal ${signal}` : `exit code ${code}`))
  })
  if (child.pid) fs.writeFileSync(path.join(folder, 'holder.pid'), `${child.pid}`)
  child.unref()
  return ended
}

/** Resolves to the state in which the holder holds the lock, or has ended. */
async function waitFor(folder, ended) {
  let gone = null
  ended.then((how) => (gone = how))
  let told = ''
  let leaveBy = Infinity
  for (;;) {
    const died = gone // before the look: what it said last counts
    const state = look(folder)
    if (state && (OVER.includes(state.state) || (state.state === 'held' && !cancelled))) return state
    if (died) return { state: 'failed', message: `the process that holds the lock ended: ${died}` }
    if (cancelled && leaveBy === Infinity) {
      fs.writeFileSync(path.join(folder, 'stop'), '')
      leaveBy = Date.now() + LEAVE_WITHIN
    }
    if (Date.now() > leaveBy) return { state: 'stopped', message: 'left to the post step' }
    if (state && state.message && state.message !== told) {
      told = state.message
      runner.say(`waiting: ${told}`)
    }
    await sleep(LOOK_EVERY)
  }
}

function exported(bin, hub, state) {
  const outputs = { acquired: true, token: state.token, owner: state.owner, name: state.name, hub }
  for (const [name, value] of Object.entries(outputs)) runner.setOutput(name, value)
  runner.setVariable('GHCOORD_HUB', hub)
  runner.setVariable('GHCOORD_LOCK', state.name)
  runner.setVariable('GHCOORD_LOCK_OWNER', state.owner)
  runner.setVariable('GHCOORD_FENCING_TOKEN', state.token)
  runner.addPath(bin)
}

async function main() {
  if (process.platform !== 'linux') throw new Error(`the action lock runs on Linux, not on ${process.platform}`)
  const token = runner.input('token')
  runner.mask(token)
  const name = runner.input('name')
  if (!name) throw new Error('the input name is missing: name the lock')
  const required = runner.flag('required')
  const hub = runner.input('hub') || ownHub()
  const owner = runner.input('owner') || ownOwner()
  const folder = fs.mkdtempSync(path.join(process.env.RUNNER_TEMP, 'ghcoord-lock-'))
  // Before anything is held: the post step finds it, however this one ends.
  runner.saveState('folder', folder)
  runner.saveState('hub', hub)
  const args = commandLine(name, owner, folder)

  let bin
  try {
    bin = await ghcoord.install(runner.say, (child) => (installing = child))
  } catch (problem) {
    if (cancelled) return 1
    throw problem
  } finally {
    installing = null
  }
  if (cancelled) return 1
  runner.saveState('bin', bin)

  const env = ghcoord.environment(token, { GHCOORD_HUB: hub })
  const cwd = ghcoord.folder(runner.input('folder'))
  const began = Date.now()
  const state = await waitFor(folder, start(path.join(bin, 'ghcoord'), args, env, cwd, folder))
  const took = `${((Date.now() - began) / 1000).toFixed(1)} s`
  if (process.env.RUNNER_DEBUG === '1') runner.say(fs.readFileSync(path.join(folder, 'holder.log'), 'utf8'))
  if (state.state === 'held') {
    exported(bin, hub, state)
    runner.say(`${name} is held by ${owner} under token ${state.token}, after ${took}`)
    return 0
  }
  runner.setOutput('acquired', false)
  if (cancelled) {
    runner.say(`cancelled while waiting for ${name}`)
    return 1
  }
  if (state.state === 'refused' && !required) {
    runner.notice(state.message, 'Lock not acquired')
    return 0
  }
  runner.error(state.message, 'Lock not acquired')
  if (state.state !== 'refused') runner.say(fs.readFileSync(path.join(folder, 'holder.log'), 'utf8').slice(-4000))
  return 1
}

main().then(
  (code) => process.exit(code),
  (problem) => {
    runner.error(problem.message, 'Lock')
    process.exit(1)
  },
)
