// Finds the program and runs it. All the rest is Go, in internal/command/action.
'use strict'

const { spawn, spawnSync } = require('node:child_process')
const crypto = require('node:crypto')
const fs = require('node:fs')
const os = require('node:os')
const path = require('node:path')

const root = path.dirname(__dirname)

// The folder with the program: that of the release that this version of the
// action belongs to or, where there is none, built from the action's checkout, as
// it has been if its folder is given.
async function install(built) {
  const { version, files } = JSON.parse(fs.readFileSync(path.join(__dirname, 'release.json'), 'utf8'))
  if (!version) return built || build()
  const target = `${process.platform}-${process.arch}`
  const file = files[target]
  if (!file) throw new Error(`release ${version} has no program for ${target}`)
  const tools = process.env.RUNNER_TOOL_CACHE || process.env.RUNNER_TEMP || os.tmpdir()
  // the checksum is part of the name, so that nothing else can be taken for it
  const dir = path.join(tools, 'nixoci-action', version, `${target}-${file.sha256.slice(0, 16)}`)
  const wrong = changed(dir, file)
  if (!wrong) return dir
  if (fs.existsSync(dir)) console.log(`::warning::${wrong}; it is downloaded again`)
  unpack(await download(file), dir)
  const still = changed(dir, file)
  if (still) throw new Error(still)
  return dir
}

// Why the program in a folder is not that of the release; '' if it is. Other jobs
// can write to a runner's tool cache, and a machine that stops leaves half of a file.
function changed(dir, { program }) {
  const name = path.join(dir, 'nixoci')
  try {
    const found = checksum(fs.readFileSync(name))
    return found === program ? '' : `${name} is not the program of the release: it has the SHA-256 checksum ${found}, not ${program}`
  } catch (error) {
    return `${name} cannot be read: ${error.message}`
  }
}

function checksum(bytes) {
  return crypto.createHash('sha256').update(bytes).digest('hex')
}

async function download({ url, sha256 }) {
  console.log(`downloading ${url}`)
  if (!url.startsWith('https://')) throw new Error(`${url} is not HTTPS`)
  for (let tries = 1; ; tries++) {
    try {
      const response = await fetch(url, { signal: AbortSignal.timeout(120_000) })
      if (!response.ok) throw new Error(`downloading ${url}: the server answers ${response.status}`)
      const archive = Buffer.from(await response.arrayBuffer())
      const found = checksum(archive)
      if (found !== sha256) throw new Error(`${url} has the SHA-256 checksum ${found}, not ${sha256}`)
      return archive
    } catch (error) {
      if (tries === 3) throw error
      console.log(`${error.message}${error.cause ? `: ${error.cause.message}` : ''}; trying again`)
    }
  }
}

// Unpacks beside the folder and renames, so that nobody sees half of it. What is
// there is moved away: another job may be running it.
function unpack(archive, dir) {
  fs.mkdirSync(path.dirname(dir), { recursive: true })
  const fresh = fs.mkdtempSync(`${dir}-`)
  const tar = spawnSync('tar', ['-xzf', '-', '-C', fresh], { input: archive, stdio: ['pipe', 'inherit', 'inherit'] })
  if (tar.status !== 0) {
    fs.rmSync(fresh, { recursive: true })
    throw new Error(`unpacking the release: tar ended with ${tar.error || tar.status}`)
  }
  const old = fs.mkdtempSync(`${dir}-`)
  try {
    if (fs.existsSync(dir)) fs.renameSync(dir, path.join(old, 'old'))
    fs.renameSync(fresh, dir)
  } catch (error) {
    if (!fs.existsSync(dir)) throw error
    fs.rmSync(fresh, { recursive: true }) // another job was faster
  } finally {
    fs.rmSync(old, { recursive: true })
  }
}

function build() {
  const dir = fs.mkdtempSync(path.join(process.env.RUNNER_TEMP || os.tmpdir(), 'nixoci-bin-'))
  console.log('::group::building the action from its checkout, which belongs to no release')
  const go = spawnSync('go', ['build', '-trimpath', '-buildvcs=false', '-o', dir + path.sep, './cmd/nixoci'], {
    cwd: root,
    env: { ...process.env, CGO_ENABLED: '0' },
    stdio: 'inherit',
  })
  console.log('::endgroup::')
  if (go.error && go.error.code === 'ENOENT') {
    throw new Error('this version of the action belongs to no release, and Go is missing to build it: use a released version, or place actions/setup-go before this step')
  }
  if (go.status !== 0) throw new Error(`building the action: go build ended with ${go.error || go.status}`)
  return dir
}

function run(dir, phase) {
  const child = spawn(path.join(dir, 'nixoci'), ['action', phase], { stdio: ['ignore', 'inherit', 'inherit'] })
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal))
  child.on('error', fail)
  child.on('exit', (code, signal) => {
    if (signal) fail(new Error(`the action was ended by ${signal}`))
    else process.exitCode = code
  })
}

function fail(error) {
  const text = error.cause ? `${error.message}: ${error.cause.message}` : error.message
  console.log(`::error::${text.replaceAll('%', '%25').replaceAll('\r', '%0D').replaceAll('\n', '%0A')}`)
  process.exitCode = 1
}

module.exports = { fail, install, run }
