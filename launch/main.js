'use strict'

const fs = require('node:fs')
const { fail, install, run } = require('./launch.js')

install().then((dir) => {
  fs.appendFileSync(process.env.GITHUB_STATE, `bin=${dir}\n`)
  run(dir, 'main')
}).catch(fail)
