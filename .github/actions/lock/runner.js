// What a step may say to the runner, and how: inputs, files, commands. Nothing here waits.
'use strict'

const crypto = require('node:crypto')
const fs = require('node:fs')
const os = require('node:os')

/** An input of the step, as the runner hands it over. */
function input(name) {
  return (process.env[`INPUT_${name.replace(/ /g, '_').toUpperCase()}`] || '').trim()
}

/** An input that is "true" or "false"; throws for anything else. */
function flag(name) {
  const value = input(name).toLowerCase()
  if (value !== 'true' && value !== 'false') {
    throw new Error(`the input ${name} is true or false, not ${JSON.stringify(value.slice(0, 40))}`)
  }
  return value === 'true'
}

const data = (text) => String(text).replace(/%/g, '%25').replace(/\r/g, '%0D').replace(/\n/g, '%0A')
const property = (text) => data(text).replace(/:/g, '%3A').replace(/,/g, '%2C')

// What moves a terminal's cursor or turns text around, in others' names and messages. Line ends stay.
const HOSTILE = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g
const escaped = (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, '0')}`
const visible = (text) => String(text).replace(HOSTILE, escaped)

function write(line) {
  // At once: what is written to a pipe otherwise may be lost when the process exits.
  fs.writeSync(1, line + os.EOL)
}

function command(name, message, title) {
  write(`::${name}${title ? ` title=${property(visible(title))}` : ''}::${data(visible(message))}`)
}

/** Print lines that the runner does not read as commands: these begin a line, the old form stands anywhere. */
function say(text) {
  for (const line of visible(text).split('\n')) write(`lock | ${line.replaceAll('##[', '# #[')}`)
}

/** Keep a secret out of the log. */
function mask(secret) {
  for (const line of secret.split(/\r?\n/)) if (line.trim()) write(`::add-mask::${data(line)}`)
}

/** Append name and value to one of the runner's files, whatever the value holds. */
function record(variable, name, value) {
  const file = process.env[variable]
  if (!file) throw new Error(`${variable} is not set: this program runs in a job of GitHub Actions`)
  const mark = `end_${crypto.randomUUID()}`
  fs.appendFileSync(file, `${name}<<${mark}\n${value}\n${mark}\n`)
}

module.exports = {
  input,
  flag,
  say,
  mask,
  error: (message, title) => command('error', message, title),
  warning: (message, title) => command('warning', message, title),
  notice: (message, title) => command('notice', message, title),
  setOutput: (name, value) => record('GITHUB_OUTPUT', name, String(value)),
  setVariable: (name, value) => record('GITHUB_ENV', name, String(value)),
  saveState: (name, value) => record('GITHUB_STATE', name, String(value)),
  addPath: (folder) => fs.appendFileSync(process.env.GITHUB_PATH, `${folder}\n`),
}
